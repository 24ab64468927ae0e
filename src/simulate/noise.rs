//! Reproducible randomness: one stream per seed and purpose, the same on every machine.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

/// A stream of random numbers that follows from a seed and a stream number alone.
#[derive(Debug)]
pub struct Noise(ChaCha8Rng);

impl Noise {
    /// The stream of this number; streams of one seed are independent of each other.
    pub fn new(seed: u64, stream: u64) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(stream);
        Self(rng)
    }

    /// Even between 0 (inclusive) and 1.
    pub fn unit(&mut self) -> f64 {
        (self.0.next_u64() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Normal, mean 0, standard deviation 1 (Box and Muller 1958).
    pub fn normal(&mut self) -> f64 {
        let radius = (-2.0 * (1.0 - self.unit()).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.unit()).cos()
    }

    /// Whether an event that happens every `mean_s` on average happens within `step_s`.
    pub fn within(&mut self, step_s: f64, mean_s: f64) -> bool {
        self.unit() < 1.0 - (-step_s / mean_s).exp()
    }

    /// One step of a normal process with memory `memory_s` (Ornstein and Uhlenbeck).
    pub fn drift(&mut self, value: &mut f64, step_s: f64, memory_s: f64) {
        let keep = (-step_s / memory_s).exp();
        *value = *value * keep + (1.0 - keep * keep).sqrt() * self.normal();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_repeats_and_differs_from_the_others() {
        let draw = |seed, stream| {
            let mut noise = Noise::new(seed, stream);
            [noise.unit(), noise.normal()]
        };
        assert_eq!(draw(1, 0), draw(1, 0));
        assert_ne!(draw(1, 0), draw(1, 1));
        assert_ne!(draw(1, 0), draw(2, 0));
    }

    #[test]
    fn the_normal_is_normal() {
        let mut noise = Noise::new(3, 0);
        let x: Vec<f64> = (0..20_000).map(|_| noise.normal()).collect();
        let mean = x.iter().sum::<f64>() / x.len() as f64;
        let var = x.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / x.len() as f64;
        assert!(
            mean.abs() < 0.03 && (var - 1.0).abs() < 0.05,
            "{mean} {var}"
        );
    }
}
