//! A ring of the newest slots of one series, addressed by slot index, and statistics over its end.

/// The newest `len` values of a regular series. Absent values are NaN inside and `None` outside.
///
/// It takes memory as it fills: fifteen days of minutes are 86 kB a device.
#[derive(Clone, Debug)]
pub(super) struct Ring {
    values: Vec<f32>,
    len: usize,
    first: i64,
    next: i64,
}

impl Ring {
    /// A ring of `len` slots whose next value belongs to slot `next`.
    pub fn new(len: usize, next: i64) -> Self {
        Self {
            values: Vec::new(),
            len: len.max(1),
            first: next,
            next,
        }
    }

    fn place(&self, index: i64) -> usize {
        (index - self.first).rem_euclid(self.len as i64) as usize
    }

    /// Appends the value of slot `next`; returns what fell out.
    pub fn push(&mut self, value: Option<f64>) -> Option<f64> {
        let place = self.place(self.next);
        let new = value.map_or(f32::NAN, |v| v as f32);
        self.next += 1;
        if place < self.values.len() {
            return some(std::mem::replace(&mut self.values[place], new));
        }
        if self.values.len() == self.values.capacity() {
            // In even steps: doubling would take up to twice what it needs.
            let step = (self.len / 16).max(16).min(self.len - self.values.len());
            self.values.reserve_exact(step);
        }
        self.values.push(new);
        None
    }

    /// The value of a slot, if it is still held and was there.
    pub fn at(&self, index: i64) -> Option<f64> {
        let held = self.next - self.values.len() as i64..self.next;
        held.contains(&index)
            .then(|| some(self.values[self.place(index)]))
            .flatten()
    }

    /// The values present in the newest `len` slots, oldest first.
    pub fn tail(&self, len: usize) -> impl Iterator<Item = f64> + '_ {
        let from = self.next - len.min(self.values.len()) as i64;
        (from..self.next).filter_map(|i| some(self.values[self.place(i)]))
    }
}

fn some(v: f32) -> Option<f64> {
    (!v.is_nan()).then_some(f64::from(v))
}

/// Count, mean, standard deviation and maximum of a window.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Stats {
    n: u32,
    mean: f64,
    squares: f64,
    max: f64,
}

impl Stats {
    /// By Welford's recurrence.
    pub fn of(values: impl Iterator<Item = f64>) -> Self {
        let mut s = Stats {
            max: f64::NEG_INFINITY,
            ..Stats::default()
        };
        for v in values {
            s.n += 1;
            let d = v - s.mean;
            s.mean += d / f64::from(s.n);
            s.squares += d * (v - s.mean);
            s.max = s.max.max(v);
        }
        s
    }

    /// The mean of at least one value.
    pub fn mean(&self) -> Option<f64> {
        (self.n >= 1).then_some(self.mean)
    }

    /// The sample standard deviation of at least two values.
    pub fn std(&self) -> Option<f64> {
        (self.n >= 2).then(|| (self.squares / f64::from(self.n - 1)).sqrt())
    }

    /// The highest of at least two values.
    pub fn max(&self) -> Option<f64> {
        (self.n >= 2).then_some(self.max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ring_forgets_the_oldest_and_knows_only_what_it_holds() {
        let mut ring = Ring::new(3, -1);
        for v in [Some(1.0), None, Some(3.0), Some(4.0)] {
            ring.push(v);
        }
        let all: Vec<_> = (-2..5).map(|i| ring.at(i)).collect();
        assert_eq!(all, [None, None, None, Some(3.0), Some(4.0), None, None]);
        assert_eq!(ring.tail(9).collect::<Vec<_>>(), [3.0, 4.0]);
        assert_eq!(ring.push(None), None);
        assert_eq!(ring.push(None), Some(3.0));
    }

    #[test]
    fn statistics_need_enough_values() {
        let s = Stats::of([2.0, 4.0, 6.0].into_iter());
        assert_eq!(
            (s.mean(), s.std(), s.max()),
            (Some(4.0), Some(2.0), Some(6.0))
        );
        let one = Stats::of([2.0].into_iter());
        assert_eq!((one.mean(), one.std(), one.max()), (Some(2.0), None, None));
        assert_eq!(Stats::of([].into_iter()).mean(), None);
    }
}
