//! Tests of the whole simulator: physics that must hold, and what each fault does and does not do.

use super::*;

const DAY_STEPS: usize = 1440;

/// Two dual-axis devices in Madrid from the start of 2026-06-10 UTC.
fn params(faults: &[&str]) -> Params {
    Params {
        devices: 2,
        start: TimestampMs(1_781_049_600_000),
        step_s: 60,
        axes: Axes::Dual,
        site: Site {
            latitude_deg: 40.45,
            longitude_deg: -3.73,
        },
        capacity_w: 100.0,
        seed: 1,
        faults: faults.iter().map(|f| f.parse().unwrap()).collect(),
    }
}

fn days(days: usize, params: Params) -> Vec<Sample> {
    let end = params.start.plus_min((days * DAY_STEPS) as i64);
    let samples = Simulator::new(params).unwrap();
    samples.take_while(|s| s.at < end).collect()
}

fn get(sample: &Sample, field: Field) -> f64 {
    sample.values.get(field).unwrap()
}

fn energy(samples: &[Sample], device: &str) -> f64 {
    let own = samples.iter().filter(|s| s.device.as_str() == device);
    own.map(|s| get(s, Field::Power) / 60.0).sum()
}

fn bytes(samples: &[Sample]) -> String {
    samples.iter().map(Sample::payload).collect()
}

#[test]
fn the_same_seed_gives_the_same_bytes_and_another_seed_others() {
    let once = bytes(&days(1, params(&[])));
    assert_eq!(once, bytes(&days(1, params(&[]))));
    let other = Params {
        seed: 2,
        ..params(&[])
    };
    assert_ne!(once, bytes(&days(1, other)));
}

#[test]
fn every_step_has_every_device_in_the_order_of_time() {
    let samples = days(1, params(&[]));
    assert_eq!(samples.len(), 2 * DAY_STEPS);
    for (i, sample) in samples.iter().enumerate() {
        assert_eq!(sample.at, params(&[]).start.plus_min((i / 2) as i64));
        assert_eq!(sample.device.as_str(), ["t01", "t02"][i % 2]);
        assert_eq!(sample.ts, sample.at);
        assert_eq!(sample.values.iter().count(), 8);
    }
}

#[test]
fn power_is_zero_at_night_and_near_the_capacity_at_a_clear_noon() {
    for axes in [Axes::Single, Axes::Dual] {
        let samples = days(
            10,
            Params {
                axes,
                ..params(&[])
            },
        );
        let mut best = 0.0_f64;
        for sample in &samples {
            let sun = sun::position(params(&[]).site, sample.at).unwrap();
            if sun.elevation_deg < 0.0 {
                assert_eq!(get(sample, Field::Power), 0.0, "{sample:?}");
                assert_eq!(get(sample, Field::Lux), 0.0);
            }
            best = best.max(get(sample, Field::Power));
        }
        assert!((78.0..105.0).contains(&best), "{axes:?}: {best} of 100 W");
    }
}

#[test]
fn power_is_voltage_times_current() {
    for sample in days(5, params(&["cap:t02:0:7200:40"])) {
        let product = get(&sample, Field::Voltage) * get(&sample, Field::Current);
        let power = get(&sample, Field::Power);
        assert!((power - product).abs() <= 0.0101, "{power} {product}");
    }
}

#[test]
fn the_devices_share_their_clouds_but_are_not_copies() {
    let samples = days(10, params(&[]));
    let (mut a, mut b) = (Vec::new(), Vec::new());
    for pair in samples.chunks(2) {
        a.push(get(&pair[0], Field::Power));
        b.push(get(&pair[1], Field::Power));
    }
    let r = correlation(&a, &b);
    assert!((0.95..0.99999).contains(&r), "{r}");
}

#[test]
fn humidity_goes_against_temperature() {
    let samples = days(10, params(&[]));
    let warm: Vec<f64> = samples.iter().map(|s| get(s, Field::Temperature)).collect();
    let humid: Vec<f64> = samples.iter().map(|s| get(s, Field::Humidity)).collect();
    let r = correlation(&warm, &humid);
    assert!(r < -0.5, "{r}");
}

fn correlation(a: &[f64], b: &[f64]) -> f64 {
    let mean = |x: &[f64]| x.iter().sum::<f64>() / x.len() as f64;
    let (ma, mb) = (mean(a), mean(b));
    let sum = |f: &dyn Fn(f64, f64) -> f64| -> f64 {
        a.iter().zip(b).map(|(x, y)| f(x - ma, y - mb)).sum()
    };
    sum(&|x, y| x * y) / (sum(&|x, _| x * x) * sum(&|_, y| y * y)).sqrt()
}

#[test]
fn a_tracker_harvests_more_than_a_panel_that_lies_flat() {
    for axes in [Axes::Single, Axes::Dual] {
        let run = |faults: &[&str]| {
            let params = Params {
                axes,
                ..params(faults)
            };
            days(5, params)
        };
        let (healthy, stuck) = (run(&[]), run(&["stuck:t01:0:7200"]));
        let (with, without) = (energy(&healthy, "t01"), energy(&stuck, "t01"));
        assert!(without < 0.92 * with, "{axes:?}: {without} of {with} Wh");
        assert_eq!(energy(&healthy, "t02"), energy(&stuck, "t02"), "{axes:?}");
        let angle = get(&stuck[2 * 720], Field::ServoAngle);
        assert_eq!(angle, get(&stuck[0], Field::ServoAngle), "it did not move");
    }
}

#[test]
fn a_slow_or_reversed_servo_loses_energy_too() {
    let run = |faults: &[&str]| {
        let params = Params {
            axes: Axes::Single,
            ..params(faults)
        };
        energy(&days(3, params), "t01")
    };
    let healthy = run(&[]);
    let slow = run(&["slow:t01:0:4320"]);
    let reversed = run(&["reversed:t01:0:4320"]);
    assert!(slow < 0.97 * healthy, "{slow} of {healthy} Wh");
    assert!(reversed < 0.8 * healthy, "{reversed} of {healthy} Wh");
    assert!(reversed < slow);
}

#[test]
fn curtailment_never_exceeds_its_cap_and_ends_on_time() {
    let samples = days(1, params(&["cap:t01:0:720:30"]));
    let power = |range: std::ops::Range<usize>| {
        let own = samples[2 * range.start..2 * range.end].iter().step_by(2);
        own.map(|s| get(s, Field::Power)).fold(0.0, f64::max)
    };
    assert!(power(0..720) <= 30.0);
    assert!(power(0..720) > 29.9, "the cap is reached");
    assert!(power(720..1440) > 40.0, "the cap is gone");
}

#[test]
fn an_outage_sends_nothing_and_changes_nothing_else() {
    let healthy = days(1, params(&[]));
    let broken = days(1, params(&["outage:t01:600:60"]));
    let (from, until) = (
        params(&[]).start.plus_min(600),
        params(&[]).start.plus_min(660),
    );
    let kept = |s: &&Sample| s.device.as_str() != "t01" || s.at < from || s.at >= until;
    let expected: Vec<Sample> = healthy.iter().filter(kept).cloned().collect();
    assert_eq!(expected.len(), 2 * DAY_STEPS - 60);
    assert_eq!(broken, expected);
    // All devices silent for a while: the iterator goes on afterwards.
    assert_eq!(
        days(1, params(&["outage:all:0:60"])).len(),
        2 * (DAY_STEPS - 60)
    );
}

#[test]
fn a_broken_sensor_says_nan_and_the_rest_is_untouched() {
    let sample = &days(1, params(&["nan:t01:0:1440:lux"]))[2 * 700];
    let json: serde_json::Value = serde_json::from_str(&sample.payload()).unwrap();
    assert_eq!(json["lux"], "nan");
    assert_eq!(sample.values.get(Field::Lux), None);
    let healthy = &days(1, params(&[]))[2 * 700];
    assert_eq!(
        sample.values.get(Field::Power),
        healthy.values.get(Field::Power)
    );
    assert!(!healthy.payload().contains("nan"));
}

#[test]
fn a_skewed_clock_shifts_the_device_time_only() {
    let healthy = days(1, params(&[]));
    let skewed = days(1, params(&["skew:t02:0:1440:-90"]));
    for (a, b) in healthy.iter().zip(&skewed) {
        let by_ms = if a.device.as_str() == "t02" {
            -90_000
        } else {
            0
        };
        assert_eq!((b.at, b.ts), (a.at, a.ts.plus_ms(by_ms)));
        assert_eq!(a.values, b.values);
    }
}

#[test]
fn parameters_out_of_range_are_named() {
    let error = |params| Simulator::new(params).unwrap_err().to_string();
    assert!(
        error(Params {
            devices: 0,
            ..params(&[])
        })
        .contains("devices = 0")
    );
    assert!(
        error(Params {
            step_s: 0,
            ..params(&[])
        })
        .contains("step = 0")
    );
    assert!(
        error(Params {
            capacity_w: f64::NAN,
            ..params(&[])
        })
        .contains("capacity")
    );
    assert!(
        error(Params {
            start: TimestampMs(0),
            ..params(&[])
        })
        .contains("1970")
    );
    assert!(error(params(&["stuck:t03:0:1"])).contains("`t03`"));
}
