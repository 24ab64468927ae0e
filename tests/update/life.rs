//! A station's life with updates: trial, commit, give-up, rollback, the package beside it.

use std::time::{Duration, Instant};

use nightwatt::update::switch::Trial;

use super::{Publisher, Updated, living, script, speaking, version};
use crate::support::{Broker, put_history, wait_for};

/// Starts the launcher as a service manager would: again whenever it ends, killed where it hangs.
fn supervise(updated: &Updated, starts: u32, hang: Duration) -> Vec<String> {
    (0..starts)
        .map(|_| {
            let mut child = updated
                .station
                .command(&["launch"])
                .env("NIGHTWATT_MQTT__URL", "nowhere")
                .stdout(std::process::Stdio::piped())
                .stderr(std::process::Stdio::null())
                .spawn()
                .unwrap();
            let began = Instant::now();
            wait_for("the end or the hang", 60, || {
                let ended = child.try_wait().unwrap().is_some();
                if !ended && began.elapsed() > hang {
                    child.kill().unwrap();
                }
                ended.then_some(())
            });
            let said = child.wait_with_output().unwrap().stdout;
            String::from_utf8(said).unwrap().trim().to_owned()
        })
        .collect()
}

#[test]
fn o8_a_candidate_that_fails_in_any_way_is_given_up_after_three_starts() {
    let publisher = Publisher::new();
    let updated = Updated::new(&[&publisher], "");
    updated.commit(&publisher, 7, &speaking(7));
    let ways = [
        "echo bad; exit 1",
        "echo bad; sleep 0.2; exit 0",
        "echo bad; kill -9 $$",
        "echo bad; exec sleep 600",
    ];
    for (sequence, run) in (8..).zip(ways) {
        publisher.publish(
            &updated.release(sequence),
            sequence,
            &script(sequence, run),
            |_| (),
        );
        assert_eq!(
            updated.report("apply", sequence, &[])["outcome"],
            "trial",
            "{run}"
        );
        let out = updated.update("apply", sequence, &[]);
        assert_eq!(out.status.code(), Some(1), "one trial at a time");
        let said = supervise(&updated, 4, Duration::from_secs(2));
        assert_eq!(said, ["bad", "bad", "bad", "sequence 7"], "{run}");
        let rejected = updated.layout().rejected();
        assert!(
            rejected.iter().any(|r| r.sequence == sequence && !r.noted),
            "{run}"
        );
        assert_eq!(updated.report("apply", sequence, &[])["reason"], "rejected");
    }
    // The operator may all the same.
    assert_eq!(updated.report("apply", 8, &["--again"])["outcome"], "trial");
    assert_eq!(updated.started(), "bad");
    assert_eq!(
        updated.station.run(&["update", "rollback"]).status.code(),
        Some(0)
    );
    assert_eq!(updated.started(), "sequence 7");
    // A file that signed and hashed is no program at all.
    publisher.publish(
        &updated.release(20),
        20,
        b"\x7fELF and then nothing",
        |_| (),
    );
    assert_eq!(updated.update("apply", 20, &[]).status.code(), Some(1));
    // One that does not get on with this station is never tried.
    let unfit = format!(
        "#!/bin/sh\necho nightwatt {}\necho 'cannot bear this' >&2\nexit 1\n",
        version(21)
    );
    publisher.publish(&updated.release(21), 21, unfit.as_bytes(), |_| ());
    let out = updated.update("apply", 21, &[]);
    assert_eq!(out.status.code(), Some(1));
    let said = String::from_utf8(out.stderr).unwrap();
    assert!(said.contains("exit status: 1: cannot bear this"), "{said}");
    assert!(updated.layout().trial().is_none());
    assert_eq!(updated.started(), "sequence 7");
}

/// Starts the launcher and keeps it; what it becomes has the same process id.
pub fn start(updated: &mut Updated) -> u32 {
    updated.station.launch();
    updated.station.pid()
}

pub fn in_force(updated: &Updated) -> serde_json::Value {
    updated
        .station
        .try_status()
        .map_or_else(Default::default, |s| s["daemon"]["update"].clone())
}

#[test]
fn o9_a_good_candidate_commits_without_a_broker_and_the_way_back_leads_back() {
    let publisher = Publisher::new();
    let mut updated = Updated::new(&[&publisher], "trial_s = 2");
    let pid = start(&mut updated);
    publisher.publish(&updated.release(8), 8, &living(8), |_| ());
    assert_eq!(updated.report("check", 8, &[])["outcome"], "available");
    assert_eq!(updated.report("fetch", 8, &[])["outcome"], "fetched");
    assert_eq!(updated.report("apply", 8, &[])["outcome"], "trial");
    wait_for("the commit", 30, || {
        let here = in_force(&updated);
        (here["sequence"] == 8 && here["trial"].is_null()).then_some(())
    });
    assert_eq!(updated.layout().linked("current"), Some(8));
    assert_eq!(updated.station.pid(), pid);
    assert!(
        updated.station.exited().is_none(),
        "the process is the same"
    );
    let committed = "SELECT count(*) FROM event WHERE kind = 'update_committed'";
    wait_for("the event", 10, || {
        (updated.station.query::<i64>(committed) == 1).then_some(())
    });
    let applied = "SELECT group_concat(mode || ' ' || outcome) FROM run WHERE kind = 'update'";
    assert_eq!(
        updated.station.query::<String>(applied),
        "check done,fetch done,apply done"
    );
    // A start anew is the committed version.
    updated.station.kill_9();
    start(&mut updated);
    assert_eq!(in_force(&updated)["sequence"], 8);
    // N+2, then back to N+1 and to N.
    publisher.publish(&updated.release(9), 9, &living(9), |_| ());
    assert_eq!(updated.report("apply", 9, &[])["outcome"], "trial");
    wait_for("the second commit", 30, || {
        (updated.layout().linked("current") == Some(9)).then_some(())
    });
    let rolled_back = |updated: &Updated| {
        let out = updated.station.run(&["update", "rollback", "--json"]);
        serde_json::from_slice::<serde_json::Value>(&out.stdout).unwrap_or_default()
    };
    assert_eq!(rolled_back(&updated)["sequence"], 8);
    wait_for("the version before", 20, || {
        (in_force(&updated)["sequence"] == 8).then_some(())
    });
    assert_eq!(updated.report("apply", 9, &[])["reason"], "rejected");
    assert!(rolled_back(&updated)["sequence"].is_null());
    wait_for("the factory version", 20, || {
        let here = in_force(&updated);
        (here.is_object() && here["sequence"].is_null()).then_some(())
    });
    assert!(updated.station.exited().is_none());
    let out = updated.station.run(&["update", "rollback"]);
    assert_eq!(out.status.code(), Some(2), "nothing before it: {out:?}");
    let failed = "SELECT count(*) FROM run WHERE kind = 'update' AND mode = 'rollback' AND outcome <> 'done'";
    assert_eq!(updated.station.query::<i64>(failed), 0, "no run of it");
    let taken_back = "SELECT count(*) FROM event WHERE kind = 'update_taken_back'";
    wait_for("the events", 10, || {
        (updated.station.query::<i64>(taken_back) == 2).then_some(())
    });
    let by_itself = "SELECT count(*) FROM event WHERE kind = 'update_rolled_back'";
    assert_eq!(updated.station.query::<i64>(by_itself), 0, "no alert");
    let history = updated.station.run(&["update", "history"]);
    let told = String::from_utf8(history.stdout).unwrap();
    assert!(told.contains("proved itself"), "{told}");
    assert!(
        told.contains("(sequence 9) was taken back by hand"),
        "{told}"
    );
}

#[test]
fn a_package_that_is_newer_than_the_update_runs_instead_of_it() {
    let publisher = Publisher::new();
    let updated = Updated::new(&[&publisher], "");
    updated.commit(&publisher, 7, &speaking(7));
    assert_eq!(updated.started(), "sequence 7");
    // As if apt had brought a version that the update is not newer than.
    let layout = updated.layout();
    publisher.publish(&updated.release(8), 8, &speaking(8), |m| {
        m["version"] = "0.0.9".into()
    });
    let aside = layout.version(8);
    std::fs::create_dir(&aside).unwrap();
    for (from, to) in [
        ("program", "nightwatt"),
        ("nightwatt-manifest.json", "nightwatt-manifest.json"),
        (
            "nightwatt-manifest.json.minisig",
            "nightwatt-manifest.json.minisig",
        ),
    ] {
        std::fs::copy(updated.release(8).join(from), aside.join(to)).unwrap();
    }
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(layout.program(8), std::fs::Permissions::from_mode(0o755)).unwrap();
    std::fs::remove_file(layout.path("current")).unwrap();
    std::os::unix::fs::symlink("versions/8", layout.path("current")).unwrap();
    let _ = std::fs::remove_file(layout.path("previous"));
    assert_eq!(updated.started(), "factory");
    let status = updated.station.run(&["update", "status"]);
    let said = String::from_utf8(status.stdout).unwrap();
    assert!(
        said.contains("factory binary") && !said.contains("damaged"),
        "{said}"
    );
    // A newer update takes over again.
    publisher.publish(&updated.release(9), 9, &speaking(9), |_| ());
    assert_eq!(updated.report("apply", 9, &[])["outcome"], "trial");
    assert_eq!(updated.started(), "sequence 9");
}

#[test]
fn o15_of_two_updates_one_wins_and_training_gives_way() {
    let publisher = Publisher::new();
    let dir = tempfile::tempdir().unwrap();
    let broker = Broker::start(dir.path(), "");
    let mut updated = Updated::at(
        None,
        &broker.url(),
        &[&publisher],
        "trial_s = 600\n[training]\nenabled = false",
    );
    publisher.publish(&updated.release(8), 8, &living(8), |_| ());
    // A file and another process at once.
    let held = updated.layout().lock().unwrap();
    let out = updated.update("apply", 8, &[]);
    assert_eq!(out.status.code(), Some(1));
    assert!(
        String::from_utf8(out.stderr)
            .unwrap()
            .contains("another update is going on")
    );
    drop(held);
    start(&mut updated);
    updated.station.wait_connected();
    updated.station.stop();
    put_history(&updated.station, 2, 60, 120);
    let pid = start(&mut updated);
    let out = updated.station.run(&["train", "--force", "--background"]);
    assert!(out.status.success(), "{out:?}");
    wait_for("the training", 30, || {
        let status = updated.station.try_status()?;
        (status["daemon"]["training"] == true).then_some(())
    });
    let began = Instant::now();
    assert_eq!(updated.report("apply", 8, &[])["outcome"], "trial");
    wait_for("the candidate", 30, || {
        (in_force(&updated)["sequence"] == 8).then_some(())
    });
    assert_eq!(updated.station.pid(), pid);
    assert!(began.elapsed() < Duration::from_secs(30));
    let open = "SELECT count(*) FROM run WHERE outcome IS NULL";
    assert_eq!(updated.station.query::<i64>(open), 0, "no run is left open");
    // It was still at it, and was stopped: neither ended by itself nor killed and found open at the next start.
    let ended = "SELECT group_concat(outcome || ': ' || reason) FROM run WHERE kind = 'training'";
    let ended: String = updated.station.query(ended);
    assert!(
        ended.starts_with("failed:") && ended.contains("stopped during the run"),
        "{ended}"
    );
}

#[test]
fn o8_a_crash_after_it_ran_ends_the_trial_and_an_orderly_end_or_a_power_cut_does_not() {
    let publisher = Publisher::new();
    let mut updated = Updated::new(&[&publisher], "trial_s = 600");
    start(&mut updated);
    publisher.publish(&updated.release(8), 8, &living(8), |_| ());
    assert_eq!(updated.report("apply", 8, &[])["outcome"], "trial");
    let runs = |updated: &Updated, tries_left: u8| {
        wait_for("the candidate to run", 30, || {
            let trial = updated.layout().trial()?;
            (trial.ready && trial.tries_left == tries_left).then_some(trial)
        })
    };
    runs(&updated, 2);
    // As `systemctl restart` does.
    updated.station.stop();
    assert!(!updated.layout().trial().unwrap().ready);
    start(&mut updated);
    let trial = runs(&updated, 1);
    updated.station.kill_9();
    // As if the machine had been without power in between.
    let boot = "the one before".into();
    let cut = Trial {
        boot,
        tries_left: 2,
        ..trial
    };
    updated.layout().try_out(&cut).unwrap();
    start(&mut updated);
    runs(&updated, 1);
    assert!(updated.layout().rejected().is_empty());
    // A crash, with a try left.
    updated.station.kill_9();
    start(&mut updated);
    assert!(
        in_force(&updated)["sequence"].is_null(),
        "the factory version"
    );
    assert!(updated.layout().trial().is_none());
    let rejected = updated.layout().rejected();
    assert!(
        rejected[0].why.contains("ran and then ended"),
        "{rejected:?}"
    );
    let said = "SELECT count(*) FROM event WHERE kind = 'update_rolled_back'";
    wait_for("the event", 10, || {
        (updated.station.query::<i64>(said) == 1).then_some(())
    });
}
