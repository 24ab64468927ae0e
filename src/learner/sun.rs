//! Where the sun stands over a site, by the Grena3 algorithm of a kept crate.

use serde::{Deserialize, Serialize};
use solar_positioning::{Location, SolarPositions, time::JulianDate};

use crate::reading::TimestampMs;

/// A place on earth, degrees; north and east are positive.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Site {
    /// Degrees north, -90 … 90.
    pub latitude_deg: f64,
    /// Degrees east, -180 … 180.
    pub longitude_deg: f64,
}

/// The sun's direction without refraction.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SunPosition {
    /// Degrees above the horizon, negative at night.
    pub elevation_deg: f64,
    /// Degrees clockwise from north, 0 … 360.
    pub azimuth_deg: f64,
}

const UNIX_EPOCH_JD: f64 = 2_440_587.5;
const MS_PER_DAY: f64 = 86_400_000.0;
/// TT - UT1 in the 2020s, seconds; an error of a few seconds moves the sun by well under 0.01 degrees.
const DELTA_T_S: f64 = 69.0;

/// The sun over `site` at `ts`, within 0.01 degrees (R. Grena, Solar Energy 86, 2012).
///
/// `None` outside 2010 … 2110 (the algorithm's range) or for a site that is not on earth.
pub fn position(site: Site, ts: TimestampMs) -> Option<SunPosition> {
    let time = JulianDate::new(UNIX_EPOCH_JD + ts.0 as f64 / MS_PER_DAY, DELTA_T_S).ok()?;
    let location = Location {
        latitude: site.latitude_deg,
        longitude: site.longitude_deg,
    };
    let sun = SolarPositions::grena3()
        .at_from_julian(time, location, 0.0, None)
        .ok()?;
    Some(SunPosition {
        elevation_deg: sun.elevation_angle(),
        azimuth_deg: sun.azimuth(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const MADRID: Site = Site {
        latitude_deg: 40.45,
        longitude_deg: -3.73,
    };

    #[test]
    fn noon_at_the_solstice_is_where_geometry_puts_it() {
        // Solar noon at 3.73 W on 2021-06-21 is about 12:17 UTC; elevation = 90 - 40.45 + 23.44.
        let noon = TimestampMs(1_624_277_820_000);
        let sun = position(MADRID, noon).expect("2021 is in range");
        assert!((sun.elevation_deg - 72.99).abs() < 0.05, "{sun:?}");
        assert!((sun.azimuth_deg - 180.0).abs() < 1.0, "{sun:?}");
    }

    #[test]
    fn the_sun_is_down_at_midnight_and_unknown_in_1970() {
        let midnight = TimestampMs(1_624_233_600_000);
        assert!(position(MADRID, midnight).expect("in range").elevation_deg < -20.0);
        assert_eq!(position(MADRID, TimestampMs(0)), None);
    }
}
