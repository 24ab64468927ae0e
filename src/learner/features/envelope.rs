//! The clear-day envelope and the capacity of one device, from its last fourteen days.

use super::ring::Ring;

/// How many days the envelope looks back.
const DAYS: i64 = 14;
/// The share of those days that lies below the envelope.
const QUANTILE: f64 = 0.9;
/// A level counts as the device's capacity once it was reached in this many slots of one day: a
/// single false reading is not a capacity.
const CAPACITY_SLOTS: usize = 3;

/// Power of the last fifteen days and what follows from it. Everything is causal: a value depends
/// on slots before the one it is asked for, and on nothing older than fourteen days and today.
#[derive(Clone, Debug)]
pub(super) struct Envelope {
    slots_per_day: i64,
    power_w: Ring,
    next: i64,
    /// The envelope of the day that slot `next` belongs to; empty before the first full day.
    today: Vec<Option<f64>>,
    /// Per day, at `day mod 15`, its highest slots in falling order.
    tops_w: Vec<[f64; CAPACITY_SLOTS]>,
}

impl Envelope {
    /// An envelope without past whose next slot is `next`.
    pub fn new(slots_per_day: i64, next: i64) -> Self {
        Self {
            slots_per_day,
            power_w: Ring::new(((DAYS + 1) * slots_per_day) as usize, next),
            next,
            today: Vec::new(),
            tops_w: vec![[0.0; CAPACITY_SLOTS]; (DAYS + 1) as usize],
        }
    }

    /// The power of past slots, W.
    pub fn power_w(&self) -> &Ring {
        &self.power_w
    }

    /// How many slots after which nothing of the past is left.
    pub fn memory_slots(&self) -> i64 {
        (DAYS + 1) * self.slots_per_day
    }

    /// Appends the power of slot `next`.
    pub fn push(&mut self, power_w: Option<f64>) {
        let day = self.next.div_euclid(self.slots_per_day);
        if let Some(w) = power_w {
            let tops = &mut self.tops_w[day.rem_euclid(DAYS + 1) as usize];
            if w > tops[CAPACITY_SLOTS - 1] {
                tops[CAPACITY_SLOTS - 1] = w;
                tops.sort_by(|a, b| b.total_cmp(a));
            }
        }
        self.power_w.push(power_w);
        self.next += 1;
        if self.next.rem_euclid(self.slots_per_day) == 0 {
            self.start_day(day + 1);
        }
    }

    fn start_day(&mut self, day: i64) {
        self.tops_w[day.rem_euclid(DAYS + 1) as usize] = [0.0; CAPACITY_SLOTS];
        let raw: Vec<_> = (0..self.slots_per_day)
            .map(|s| self.quantile(day, s))
            .collect();
        let last = raw.len() - 1;
        self.today.clear();
        self.today.extend((0..raw.len()).map(|s| {
            let before = if s == 0 { None } else { raw[s - 1] };
            let after = if s == last { None } else { raw[s + 1] };
            smoothed(before, raw[s], after)
        }));
    }

    /// The quantile of slot `s` over the fourteen days before `day`, as far as they are known.
    fn quantile(&self, day: i64, s: i64) -> Option<f64> {
        let mut w = [0.0; DAYS as usize];
        let mut n = 0;
        for d in day - DAYS..day {
            if let Some(v) = self.power_w.at(d * self.slots_per_day + s) {
                w[n] = v;
                n += 1;
            }
        }
        (n >= 2).then(|| {
            w[..n].sort_by(f64::total_cmp);
            quantile_of_sorted(&w[..n], QUANTILE)
        })
    }

    /// The envelope of slot `index`, today's or a later day's, W. A later day sees the fourteen
    /// days before it as far as they are past, so that no value runs ahead of its time.
    pub fn at(&self, index: i64) -> Option<f64> {
        let (day, s) = (
            index.div_euclid(self.slots_per_day),
            index.rem_euclid(self.slots_per_day),
        );
        if day == self.next.div_euclid(self.slots_per_day) {
            return self.today.get(s as usize).copied().flatten();
        }
        let neighbour = |s: i64| {
            let inside = (0..self.slots_per_day).contains(&s);
            inside.then(|| self.quantile(day, s)).flatten()
        };
        smoothed(neighbour(s - 1), neighbour(s), neighbour(s + 1))
    }

    /// What the device can do: the highest level that three slots of one of the last fourteen
    /// days, or of today, have reached. `None` while that is nothing. W.
    pub fn capacity_w(&self) -> Option<f64> {
        let tops = self.tops_w.iter().map(|t| t[CAPACITY_SLOTS - 1]);
        Some(tops.fold(0.0, f64::max)).filter(|&w| w > 0.0)
    }
}

/// The mean with both neighbours; a neighbour that is not there is taken as equal.
fn smoothed(before: Option<f64>, here: Option<f64>, after: Option<f64>) -> Option<f64> {
    here.map(|v| (v + before.unwrap_or(v) + after.unwrap_or(v)) / 3.0)
}

/// The quantile of rising, non-empty values, linear between order statistics (type 7 of Hyndman
/// and Fan, The American Statistician 50, 1996).
pub fn quantile_of_sorted(sorted: &[f64], q: f64) -> f64 {
    let position = q * (sorted.len() - 1) as f64;
    let below = position.floor() as usize;
    let above = (below + 1).min(sorted.len() - 1);
    sorted[below] + (position - below as f64) * (sorted[above] - sorted[below])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Days of four slots: 0, `noon`, `noon` / 2, 0.
    fn after(noons: &[f64]) -> Envelope {
        let mut e = Envelope::new(4, 0);
        for noon in noons {
            for w in [0.0, *noon, noon / 2.0, 0.0] {
                e.push(Some(w));
            }
        }
        e
    }

    #[test]
    fn the_envelope_is_the_smoothed_quantile_of_the_days_before() {
        assert_eq!(after(&[100.0]).at(5), None, "one day is not enough");
        let e = after(&[100.0, 200.0]);
        // Quantile 0.9 of 100 and 200 is 190; of 50 and 100 it is 95.
        let mean = |a: f64, b: f64, c: f64| Some((a + b + c) / 3.0);
        assert_eq!(e.at(8), mean(0.0, 0.0, 190.0));
        assert_eq!(e.at(9), mean(190.0, 0.0, 95.0));
        assert_eq!(e.at(11), mean(0.0, 95.0, 0.0));
    }

    #[test]
    fn tomorrow_sees_today_only_as_far_as_it_has_gone() {
        let mut e = after(&[100.0, 200.0]);
        assert_eq!(e.at(13), e.at(9));
        e.push(Some(0.0));
        e.push(Some(1000.0));
        assert!(
            e.at(13) > e.at(9),
            "the new noon counts for tomorrow, not for today"
        );
    }

    #[test]
    fn days_older_than_fourteen_are_forgotten() {
        let mut noons = vec![1000.0; 2];
        noons.extend([10.0; 14]);
        let e = after(&noons);
        assert_eq!(e.at(16 * 4 + 1), Some((10.0 + 0.0 + 5.0) / 3.0));
        assert_eq!(
            e.capacity_w(),
            None,
            "no level was reached three times a day"
        );
    }

    #[test]
    fn one_spike_does_not_make_a_capacity() {
        let mut e = Envelope::new(24, 0);
        assert_eq!(e.capacity_w(), None);
        for i in 0..48 {
            e.push(Some(if i == 30 { 9999.0 } else { f64::from(i % 24) }));
        }
        assert_eq!(
            e.capacity_w(),
            Some(22.0),
            "third of 9999, 23, 22 on the spiked day"
        );
    }
}
