//! A tracker's mechanics: where it should point, how its servo gets there, what the panel sees.

use std::str::FromStr;

use super::sky::Irradiance;
use crate::sun::SunPosition;

/// Degrees the sun may run ahead before the controller moves the servo.
const DEAD_BAND_DEG: f64 = 1.5;
/// The servo's smallest move.
const SERVO_STEP_DEG: f64 = 0.5;
/// How far the gear turns before the panel follows in the other direction.
const BACKLASH_DEG: f64 = 1.0;
const SERVO_DEG_PER_S: f64 = 0.5;
/// Share of the light that the ground reflects.
const ALBEDO: f64 = 0.2;

/// How a tracker can turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Axes {
    /// About a horizontal north-south axis; the servo angle is negative in the morning (facing
    /// east), 0 when flat and positive in the evening, -60 … 60 degrees.
    Single,
    /// Azimuth and elevation; the servo angle is the elevation at which the panel points,
    /// 10 … 90 degrees (90: flat). The azimuth drive is taken as ideal.
    Dual,
}

/// A text that is neither `single` nor `dual`.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("axes `{0}` is neither `single` nor `dual`")]
pub struct AxesError(String);

impl FromStr for Axes {
    type Err = AxesError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "single" => Ok(Axes::Single),
            "dual" => Ok(Axes::Dual),
            _ => Err(AxesError(text.to_owned())),
        }
    }
}

impl Axes {
    fn limits_deg(self) -> (f64, f64) {
        match self {
            Axes::Single => (-60.0, 60.0),
            Axes::Dual => (10.0, 90.0),
        }
    }

    /// Flat, where the wind takes least hold.
    fn stow_deg(self) -> f64 {
        match self {
            Axes::Single => 0.0,
            Axes::Dual => 90.0,
        }
    }

    /// The servo angle that faces the sun best; at night the stow angle.
    pub fn target_deg(self, sun: SunPosition) -> f64 {
        if sun.elevation_deg <= 0.0 {
            return self.stow_deg();
        }
        let (low, high) = self.limits_deg();
        let angle = match self {
            Axes::Single => {
                let (east, _, up) = direction(sun);
                (-east).atan2(up).to_degrees()
            }
            Axes::Dual => sun.elevation_deg,
        };
        angle.clamp(low, high)
    }

    /// Irradiance in the panel's plane, W/m²: beam by the angle of incidence, sky and ground by
    /// B. Liu and R. Jordan, Solar Energy 4 (1960).
    pub fn plane_w_m2(self, panel_deg: f64, sun: SunPosition, light: Irradiance) -> f64 {
        let (east, _, up) = direction(sun);
        let (incidence, tilt_cos) = match self {
            Axes::Single => {
                let (sin, cos) = panel_deg.to_radians().sin_cos();
                (-east * sin + up * cos, cos)
            }
            Axes::Dual => {
                let off = (panel_deg - sun.elevation_deg).to_radians();
                (off.cos(), panel_deg.to_radians().sin())
            }
        };
        light.beam * incidence.max(0.0)
            + light.diffuse * (1.0 + tilt_cos) / 2.0
            + light.global * ALBEDO * (1.0 - tilt_cos) / 2.0
    }
}

/// The sun's direction as (east, north, up).
fn direction(sun: SunPosition) -> (f64, f64, f64) {
    let (up, level) = sun.elevation_deg.to_radians().sin_cos();
    let (east, north) = sun.azimuth_deg.to_radians().sin_cos();
    (level * east, level * north, up)
}

/// What is wrong with a servo.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Drive {
    /// Nothing.
    Healthy,
    /// It does not move.
    Stuck,
    /// It moves no faster than so many degrees an hour; the sun makes 15.
    Slow(f64),
    /// Its wires are swapped: it runs away from the target, to its end stop.
    Reversed,
}

/// One servo and the panel on its gear.
#[derive(Debug)]
pub struct Servo {
    axes: Axes,
    /// What the servo reports.
    angle_deg: f64,
    /// Where the panel really points, within the backlash.
    panel_deg: f64,
    /// What a slow servo could not move yet.
    credit_deg: f64,
}

impl Servo {
    /// A servo in its stow position.
    pub fn new(axes: Axes) -> Self {
        Servo {
            axes,
            angle_deg: axes.stow_deg(),
            panel_deg: axes.stow_deg(),
            credit_deg: 0.0,
        }
    }

    /// Lets the controller move the servo for one step.
    pub fn step(&mut self, target_deg: f64, step_s: f64, drive: Drive) {
        let error = target_deg - self.angle_deg;
        let wanted = match drive {
            Drive::Stuck => 0.0,
            _ if error.abs() <= DEAD_BAND_DEG => 0.0,
            Drive::Reversed => -error,
            Drive::Healthy | Drive::Slow(_) => error,
        };
        let reach = match drive {
            Drive::Slow(deg_per_h) => {
                self.credit_deg = (self.credit_deg + deg_per_h / 3600.0 * step_s).min(180.0);
                if wanted == 0.0 {
                    self.credit_deg = self.credit_deg.min(SERVO_STEP_DEG);
                }
                self.credit_deg
            }
            _ => SERVO_DEG_PER_S * step_s,
        };
        let reach = (reach / SERVO_STEP_DEG).floor() * SERVO_STEP_DEG;
        let moved = (wanted / SERVO_STEP_DEG).round() * SERVO_STEP_DEG;
        let moved = moved.clamp(-reach, reach);
        self.credit_deg = (self.credit_deg - moved.abs()).max(0.0);
        let (low, high) = self.axes.limits_deg();
        self.angle_deg = (self.angle_deg + moved).clamp(low, high);
        let play = BACKLASH_DEG / 2.0;
        self.panel_deg = self
            .panel_deg
            .clamp(self.angle_deg - play, self.angle_deg + play);
    }

    /// What the servo reports.
    pub fn angle_deg(&self) -> f64 {
        self.angle_deg
    }

    /// Where the panel really points.
    pub fn panel_deg(&self) -> f64 {
        self.panel_deg
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MORNING: SunPosition = SunPosition {
        elevation_deg: 40.0,
        azimuth_deg: 95.0,
    };

    #[test]
    fn the_target_angle_is_the_best_one() {
        let light = super::super::sky::irradiance(40.0, 172, 1.0);
        for axes in [Axes::Single, Axes::Dual] {
            let best = axes.target_deg(MORNING);
            let beam = |angle| {
                axes.plane_w_m2(
                    angle,
                    MORNING,
                    Irradiance {
                        beam: light.beam,
                        ..Irradiance::default()
                    },
                )
            };
            for off in [-30.0, -5.0, 5.0, 30.0] {
                assert!(beam(best + off) < beam(best), "{axes:?} {off}");
            }
        }
        assert!((beam_share(Axes::Dual) - 1.0).abs() < 1e-9);
        assert!(Axes::Single.target_deg(MORNING) < -40.0, "faces east");
    }

    fn beam_share(axes: Axes) -> f64 {
        let only_beam = Irradiance {
            beam: 1.0,
            ..Irradiance::default()
        };
        axes.plane_w_m2(axes.target_deg(MORNING), MORNING, only_beam)
    }

    #[test]
    fn the_servo_rests_in_its_dead_band_and_moves_in_steps() {
        let mut servo = Servo::new(Axes::Single);
        servo.step(1.2, 60.0, Drive::Healthy);
        assert_eq!(servo.angle_deg(), 0.0);
        servo.step(10.3, 60.0, Drive::Healthy);
        assert_eq!(servo.angle_deg(), 10.5);
        assert_eq!(servo.panel_deg(), 10.0, "behind by half the backlash");
        servo.step(8.5, 60.0, Drive::Healthy);
        assert_eq!(servo.angle_deg(), 8.5);
        assert_eq!(
            servo.panel_deg(),
            9.0,
            "the gear turned before the panel did"
        );
    }

    #[test]
    fn each_fault_moves_the_servo_its_own_way() {
        let after_an_hour = |drive| {
            let mut servo = Servo::new(Axes::Single);
            for _ in 0..60 {
                servo.step(30.0, 60.0, drive);
            }
            servo.angle_deg()
        };
        assert_eq!(after_an_hour(Drive::Healthy), 30.0);
        assert_eq!(after_an_hour(Drive::Stuck), 0.0);
        assert!((4.0..=5.0).contains(&after_an_hour(Drive::Slow(5.0))));
        assert_eq!(after_an_hour(Drive::Reversed), -60.0);
    }

    #[test]
    fn at_night_the_tracker_lies_flat() {
        let night = SunPosition {
            elevation_deg: -5.0,
            azimuth_deg: 300.0,
        };
        assert_eq!(Axes::Single.target_deg(night), 0.0);
        assert_eq!(Axes::Dual.target_deg(night), 90.0);
    }
}
