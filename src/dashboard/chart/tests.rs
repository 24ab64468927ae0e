//! Axes, gaps and means.

use super::*;

#[test]
fn axes_have_round_steps_that_reach_the_top() {
    for (max, wanted) in [
        (0.7, (0.2, 4)),
        (97.0, (20.0, 5)),
        (100.0, (20.0, 5)),
        (101.0, (50.0, 3)),
        (12_345.0, (5000.0, 3)),
        (0.0, (0.25, 4)),
        (f64::NAN, (0.25, 4)),
    ] {
        let (step, n) = nice_steps(max);
        assert!(
            (step - wanted.0).abs() < 1e-9 && n == wanted.1,
            "{max}: {step} {n}"
        );
        assert!(!max.is_finite() || step * f64::from(n) >= max * 0.999);
    }
    for tenth in 1..5000 {
        let (step, n) = nice_steps(f64::from(tenth) / 10.0);
        assert!((2..=6).contains(&n), "{tenth}: {step} {n}");
    }
}

fn ticks(from: &str, to: &str, zone: Tz) -> Vec<String> {
    let at = |t: &str| {
        TimestampMs(
            t.parse::<chrono::DateTime<chrono::Utc>>()
                .unwrap()
                .timestamp_millis(),
        )
    };
    time_ticks(at(from), at(to), zone)
        .into_iter()
        .map(|t| format!("{} {}", t.at.to_utc().format("%d %H:%M"), t.text))
        .collect()
}

#[test]
fn marks_stand_at_local_midnights_also_where_clocks_change() {
    // Berlin's day of 29 March 2026 has 23 hours.
    let seen = ticks(
        "2026-03-27T23:00:00Z",
        "2026-03-31T12:00:00Z",
        Tz::Europe__Berlin,
    );
    assert_eq!(
        seen,
        [
            "27 23:00 Sat 28",
            "28 23:00 Sun 29",
            "29 22:00 Mon 30",
            "30 22:00 Tue 31"
        ]
    );
    let seen = ticks(
        "2026-03-28T23:00:00Z",
        "2026-03-29T22:00:00Z",
        Tz::Europe__Berlin,
    );
    assert_eq!(
        seen,
        [
            "28 23:00 Sun 29",
            "29 04:00 06:00",
            "29 10:00 12:00",
            "29 16:00 18:00",
            "29 22:00 Mon 30"
        ]
    );
    // Havana's 8 March has no midnight.
    let seen = ticks(
        "2026-03-06T12:00:00Z",
        "2026-03-09T12:00:00Z",
        Tz::America__Havana,
    );
    assert_eq!(seen, ["07 05:00 Sat 7", "08 05:00 Sun 8", "09 04:00 Mon 9"]);
    assert_eq!(
        ticks("2025-01-10T00:00:00Z", "2026-01-10T00:00:00Z", Tz::UTC).len(),
        12
    );
}

#[test]
fn a_gap_stays_a_gap() {
    let values = [
        None,
        Some(1),
        Some(2),
        None,
        Some(3),
        None,
        None,
        Some(4),
        Some(5),
    ];
    let wanted = [vec![(1, 1), (2, 2)], vec![(4, 3)], vec![(7, 4), (8, 5)]];
    assert_eq!(pieces(values.into_iter()), wanted);
    let bin = |w: Option<f64>| Bin {
        actual_w: w,
        ..Bin::default()
    };
    let series = Series {
        from: TimestampMs(0),
        step_ms: 60_000,
        bins: [Some(1.0), Some(2.0), None, Some(3.0)].map(bin).into(),
    };
    let mut out = String::new();
    power(&mut out, "x", &series, TimestampMs(0), Tz::UTC, "t", "d");
    // Two pieces: a line of two points and a dot.
    assert!(out.contains("d=\"M125 667L375 333M875 0h0\""), "{out}");
}

#[test]
fn longer_bins_are_the_means_of_what_is_there() {
    let bin = |w: Option<f64>| Bin {
        actual_w: w,
        ..Bin::default()
    };
    let series = Series {
        from: TimestampMs(0),
        step_ms: 10,
        bins: [Some(1.0), None, Some(4.0), None, None].map(bin).into(),
    };
    let longer = series.coarser(2);
    assert_eq!((longer.step_ms, longer.to().0), (20, 60));
    let seen: Vec<_> = longer.bins.iter().map(|b| b.actual_w).collect();
    assert_eq!(seen, [Some(1.0), Some(4.0), None]);
}
