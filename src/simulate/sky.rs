//! The sky over the site: clear-sky irradiance, the clouds before it, and the weather below.

use super::noise::Noise;

/// Irradiance of the extraterrestrial beam at the mean distance of the sun, W/m².
const SOLAR_CONSTANT_W_M2: f64 = 1361.0;

/// Irradiance on the ground, W/m².
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Irradiance {
    /// On a horizontal plane.
    pub global: f64,
    /// From the sky without the sun's disc, on a horizontal plane.
    pub diffuse: f64,
    /// From the sun's disc, on a plane that faces it.
    pub beam: f64,
}

/// Global irradiance under a cloudless sky: B. Haurwitz, J. Meteorology 2 (1945), 154-166, with
/// the coefficients of pvlib.
pub fn clear_global_w_m2(sun_elevation_deg: f64) -> f64 {
    let up = sun_elevation_deg.to_radians().sin();
    if up <= 0.0 {
        return 0.0;
    }
    1098.0 * up * (-0.059 / up).exp()
}

/// Splits `clear_index` (actual over cloudless) times the cloudless irradiance into beam and
/// diffuse: Erbs, Klein and Duffie, Solar Energy 28 (1982), 293-302.
pub fn irradiance(sun_elevation_deg: f64, day_of_year: u32, clear_index: f64) -> Irradiance {
    let up = sun_elevation_deg.to_radians().sin();
    let global = clear_global_w_m2(sun_elevation_deg) * clear_index;
    if global <= 0.0 {
        return Irradiance::default();
    }
    // The earth's distance: J. Spencer, Search 2 (1971), first term.
    let year_angle = std::f64::consts::TAU * f64::from(day_of_year) / 365.0;
    let above_air = SOLAR_CONSTANT_W_M2 * (1.0 + 0.033 * year_angle.cos()) * up;
    let kt = (global / above_air).min(1.0);
    let diffuse_fraction = if kt <= 0.22 {
        1.0 - 0.09 * kt
    } else if kt <= 0.8 {
        0.9511 + kt * (-0.1604 + kt * (4.388 + kt * (-16.638 + kt * 12.336)))
    } else {
        0.165
    };
    let diffuse = global * diffuse_fraction;
    Irradiance {
        global,
        diffuse,
        beam: (global - diffuse) / up,
    }
}

/// What the sky looks like for some hours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Regime {
    Clear,
    Broken,
    Overcast,
}

impl Regime {
    fn mean_stay_h(self) -> f64 {
        match self {
            Regime::Clear => 9.0,
            Regime::Broken => 4.0,
            Regime::Overcast => 3.0,
        }
    }

    /// The next regime; skies rarely jump between clear and overcast.
    fn next(self, chance: f64) -> Regime {
        match self {
            Regime::Clear if chance < 0.8 => Regime::Broken,
            Regime::Clear => Regime::Overcast,
            Regime::Broken if chance < 0.65 => Regime::Clear,
            Regime::Broken => Regime::Overcast,
            Regime::Overcast if chance < 0.7 => Regime::Broken,
            Regime::Overcast => Regime::Clear,
        }
    }
}

/// The clouds and the air, shared by all devices of a site.
#[derive(Debug)]
pub struct Sky {
    noise: Noise,
    regime: Regime,
    /// Under broken clouds: whether one stands before the sun.
    shaded: bool,
    /// Slow drift of how thick the clouds are, standard deviation 1.
    thickness: f64,
    /// Actual over cloudless irradiance.
    clear_index: f64,
    /// How much warmer than usual these days are, standard deviation 1.
    warmth: f64,
}

impl Sky {
    /// A sky that follows from the seed alone.
    pub fn new(seed: u64) -> Self {
        let mut noise = Noise::new(seed, 0);
        Sky {
            thickness: noise.normal(),
            warmth: noise.normal(),
            regime: Regime::Clear,
            shaded: false,
            clear_index: 1.0,
            noise,
        }
    }

    /// Moves on by one step and returns the clear-sky index, 0.05 … 1.05.
    pub fn step(&mut self, step_s: f64) -> f64 {
        if self
            .noise
            .within(step_s, self.regime.mean_stay_h() * 3600.0)
        {
            self.regime = self.regime.next(self.noise.unit());
        }
        let stay_s = if self.shaded { 240.0 } else { 420.0 };
        self.shaded ^= self.noise.within(step_s, stay_s);
        self.noise.drift(&mut self.thickness, step_s, 5400.0);
        self.noise.drift(&mut self.warmth, step_s, 86_400.0);
        let target = match self.regime {
            Regime::Clear => 0.99 + 0.01 * self.thickness,
            // The edge of a cloud reflects: a little more than a cloudless sky gives.
            Regime::Broken if self.shaded => 0.40 + 0.08 * self.thickness,
            Regime::Broken => 1.01 + 0.02 * self.thickness,
            Regime::Overcast => 0.25 + 0.07 * self.thickness,
        };
        // A cloud's shadow takes about a minute to cross the site.
        self.clear_index += (target - self.clear_index) * (1.0 - (-step_s / 60.0).exp());
        self.clear_index = self.clear_index.clamp(0.05, 1.05);
        self.clear_index
    }

    /// Air temperature, degrees Celsius, and relative humidity, percent.
    ///
    /// `season` is 1 in the middle of summer and -1 in the middle of winter.
    pub fn air(&self, solar_hour: f64, season: f64) -> (f64, f64) {
        // Warmest about three hours after the sun's noon, and more so without clouds.
        let hour = std::f64::consts::TAU * (solar_hour - 15.0) / 24.0;
        let by_day = (2.0 + 5.0 * self.clear_index) * hour.cos();
        let temperature_c = 15.0 + 9.0 * season + 2.0 * self.warmth + by_day;
        // The same water in warmer air: about 3.5 points less a degree.
        let clouds = 25.0 * (1.0 - self.clear_index);
        let humidity = 55.0 + clouds - 3.5 * (by_day + 0.5 * self.warmth);
        (temperature_c, humidity.clamp(8.0, 100.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cloudless_noon_is_bright_and_mostly_beam() {
        let noon = irradiance(73.0, 172, 1.0);
        assert!((950.0..1050.0).contains(&noon.global), "{noon:?}");
        assert!(
            (0.1..0.3).contains(&(noon.diffuse / noon.global)),
            "{noon:?}"
        );
        let closed = noon.diffuse + noon.beam * 73.0_f64.to_radians().sin();
        assert!((closed - noon.global).abs() < 1e-9);
        assert_eq!(irradiance(-1.0, 172, 1.0), Irradiance::default());
    }

    #[test]
    fn an_overcast_sky_has_next_to_no_beam() {
        let noon = irradiance(60.0, 172, 0.2);
        assert!(noon.beam < 0.05 * noon.global, "{noon:?}");
    }

    #[test]
    fn clouds_come_and_go_but_not_from_one_minute_to_the_next() {
        let mut sky = Sky::new(7);
        let k: Vec<f64> = (0..30 * 1440).map(|_| sky.step(60.0)).collect();
        let mean = k.iter().sum::<f64>() / k.len() as f64;
        let cov = |lag: usize| {
            let pairs = k.iter().zip(&k[lag..]);
            pairs.map(|(a, b)| (a - mean) * (b - mean)).sum::<f64>() / (k.len() - lag) as f64
        };
        assert!((0.4..0.95).contains(&mean), "{mean}");
        assert!(cov(1) / cov(0) > 0.9, "lag 1 min: {}", cov(1) / cov(0));
        assert!(cov(360) / cov(0) < 0.7, "lag 6 h: {}", cov(360) / cov(0));
        let ramp = k
            .windows(2)
            .map(|w| (w[1] - w[0]).abs())
            .fold(0.0, f64::max);
        assert!(ramp > 0.25, "no fast ramp: {ramp}");
    }

    #[test]
    fn humidity_falls_when_the_air_warms() {
        let sky = Sky::new(1);
        let (cold, humid) = sky.air(5.0, 0.5);
        let (warm, dry) = sky.air(15.0, 0.5);
        assert!(warm > cold + 5.0 && dry < humid - 10.0);
    }
}
