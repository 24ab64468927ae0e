//! What is left of a trial, a commit or a rollback when something comes in between.

use nightwatt::config::Config;
use nightwatt::update::launcher::{self, Launched};
use nightwatt::update::layout::Rejection;
use nightwatt::update::{Ask, Updater, Verb};

use super::life::{in_force, start};
use super::{Publisher, Updated, living, script, speaking, version};
use crate::support::{NIGHTWATT, wait_for};

#[test]
fn o1_a_commit_that_was_cut_off_before_it_was_told_is_told_by_the_next_start() {
    let publisher = Publisher::new();
    let mut updated = Updated::new(&[&publisher], "trial_s = 600");
    publisher.publish(&updated.release(8), 8, &living(8), |_| ());
    assert_eq!(updated.report("apply", 8, &[])["outcome"], "trial");
    // The power went right after the commit point, and in the middle of an install.
    let layout = updated.layout();
    layout.commit(&publisher.keys()).unwrap();
    std::fs::create_dir(layout.path("versions").join(".new")).unwrap();
    for _ in 0..2 {
        start(&mut updated);
        let committed = "SELECT count(*) FROM event WHERE kind = 'update_committed' \
                         AND detail = '9.0.8 (sequence 8) has proved itself and stays'";
        wait_for("the event", 10, || {
            (updated.station.query::<i64>(committed) == 1 && layout.trial().is_none()).then_some(())
        });
        assert_eq!(in_force(&updated)["sequence"], 8);
        assert!(!layout.path("versions").join(".new").exists());
        updated.station.stop();
    }
}

#[test]
fn a_second_launch_beside_a_candidate_that_runs_changes_nothing() {
    let publisher = Publisher::new();
    let mut updated = Updated::new(&[&publisher], "trial_s = 600");
    start(&mut updated);
    publisher.publish(&updated.release(8), 8, &living(8), |_| ());
    assert_eq!(updated.report("apply", 8, &[])["outcome"], "trial");
    let trial = wait_for("the candidate to run", 30, || {
        updated.layout().trial().filter(|t| t.ready)
    });
    let out = updated.station.run(&["launch"]);
    assert_eq!(out.status.code(), Some(1));
    let said = String::from_utf8(out.stderr).unwrap();
    let process = format!("(process {}): nothing was started", updated.station.pid());
    assert!(said.contains(&process), "{said}");
    assert_eq!(updated.layout().trial(), Some(trial));
    assert!(updated.layout().rejected().is_empty());
}

#[test]
fn a_candidate_taken_back_while_it_starts_ends_once_it_is_up_and_the_good_version_stays() {
    let publisher = Publisher::new();
    let mut updated = Updated::new(&[&publisher], "trial_s = 600");
    updated.commit(&publisher, 7, &living(7));
    let pid = start(&mut updated);
    let releases = updated.releases.path();
    let (begun, go) = (releases.join("begun"), releases.join("go"));
    let slow = format!(
        "touch {}; while [ ! -e {} ]; do sleep 0.05; done; exec {NIGHTWATT} \"$@\"",
        begun.display(),
        go.display()
    );
    publisher.publish(&updated.release(8), 8, &script(8, &slow), |_| ());
    assert_eq!(updated.report("apply", 8, &[])["outcome"], "trial");
    wait_for("the candidate to begin", 30, || {
        begun.exists().then_some(())
    });

    let rollback = || updated.station.run(&["update", "rollback"]);
    let out = rollback();
    let said = String::from_utf8(out.stdout).unwrap();
    assert!(said.starts_with("back to 9.0.7 (sequence 7)"), "{said}");
    // Whoever sees it run on and asks again means it, and not the version that is good.
    let out = rollback();
    let said = String::from_utf8(out.stderr).unwrap();
    assert_eq!(out.status.code(), Some(1), "{said}");
    assert!(
        said.contains("9.0.8 (sequence 8) was taken back already"),
        "{said}"
    );
    assert_eq!(updated.layout().linked("current"), Some(7));

    std::fs::write(&go, "").unwrap();
    wait_for("the version before", 30, || {
        (in_force(&updated)["sequence"] == 7).then_some(())
    });
    assert_eq!(updated.station.pid(), pid);
    let layout = updated.layout();
    assert_eq!(layout.linked("current"), Some(7));
    assert!(layout.trial().is_none(), "the way further back is free");
    let rejected = layout.rejected();
    assert!(
        rejected.len() == 1 && rejected[0].sequence == 8,
        "{rejected:?}"
    );
    let events = "SELECT group_concat(kind || ' ' || detail) FROM event WHERE kind LIKE 'update_%'";
    assert_eq!(
        updated.station.query::<String>(events),
        "update_taken_back 9.0.8 (sequence 8) was taken back by hand"
    );
}

#[test]
fn what_runs_on_after_its_trial_is_what_is_taken_back() {
    let publisher = Publisher::new();
    let updated = Updated::new(&[&publisher], "");
    updated.commit(&publisher, 7, &speaking(7));
    let launched = Launched {
        factory: NIGHTWATT.into(),
        factory_version: launcher::own_version(),
        sequence: Some(8),
        trial: true,
        passed_over: Vec::new(),
    };
    let mut config = Config::default();
    config.store.path = updated.station.db();
    config.update.public_keys = vec![publisher.public_key()];
    let updater = Updater::new(&config, None, Some(&launched)).unwrap();
    let ask = Ask {
        verb: Verb::Rollback,
        ..Ask::default()
    };
    for _ in 0..2 {
        assert_eq!(updater.perform(&ask, None).unwrap().sequence, Some(7));
    }
    let layout = updated.layout();
    assert_eq!(layout.linked("current"), Some(7));
    let rejected = layout.rejected().into_iter().map(|r| r.sequence);
    assert_eq!(rejected.collect::<Vec<_>>(), [8]);
}

#[test]
fn a_candidate_that_cannot_be_started_is_given_up_at_once() {
    let publisher = Publisher::new();
    let updated = Updated::new(&[&publisher], "");
    updated.commit(&publisher, 7, &speaking(7));
    let shell = updated.releases.path().join("shell");
    std::os::unix::fs::symlink("/bin/sh", &shell).unwrap();
    let file = String::from_utf8(speaking(8)).unwrap();
    let file = file.replace("/bin/sh", shell.to_str().unwrap());
    publisher.publish(&updated.release(8), 8, file.as_bytes(), |_| ());
    assert_eq!(updated.report("apply", 8, &[])["outcome"], "trial");
    std::fs::remove_file(shell).unwrap();
    assert_eq!(updated.started(), "sequence 7");
    // What runs now does not end, so there would be no second try.
    assert!(updated.layout().trial().is_none());
    let why = &updated.layout().rejected()[0].why;
    assert!(why.starts_with("it cannot be started: No such"), "{why}");
}

#[test]
fn a_version_that_would_not_start_with_the_configuration_of_now_is_not_gone_back_to() {
    let publisher = Publisher::new();
    let updated = Updated::new(&[&publisher], "");
    let newer_key = updated.releases.path().join("newer-key");
    let seven = format!(
        "#!/bin/sh\n[ \"$1\" = self-check ] && {{ echo nightwatt {}; [ ! -e {} ] || {{ echo unknown key >&2; exit 2; }}; exit; }}\n\
         echo sequence 7\n",
        version(7),
        newer_key.display()
    );
    updated.commit(&publisher, 7, seven.as_bytes());
    updated.commit(&publisher, 8, &speaking(8));
    std::fs::write(&newer_key, "").unwrap();
    let rollback = || updated.station.run(&["update", "rollback"]);
    let out = rollback();
    assert_eq!(out.status.code(), Some(1));
    let said = String::from_utf8(out.stderr).unwrap();
    assert!(said.contains("9.0.7, would not start"), "{said}");
    assert!(said.contains("unknown key"), "{said}");
    assert_eq!(updated.started(), "sequence 8");
    assert!(updated.layout().rejected().is_empty());
    std::fs::remove_file(&newer_key).unwrap();
    assert_eq!(rollback().status.code(), Some(0));
    assert_eq!(updated.started(), "sequence 7");
}

#[test]
fn what_was_given_up_meanwhile_has_yet_to_be_told() {
    let updated = Updated::new(&[], "");
    let layout = updated.layout();
    let _lock = layout.lock().unwrap();
    let rejection = |sequence| Rejection {
        sequence,
        version: version(sequence),
        why: "it ended".into(),
        noted: false,
    };
    layout.reject(rejection(8)).unwrap();
    let told = layout.rejected();
    layout.reject(rejection(9)).unwrap();
    layout.noted(&told).unwrap();
    let noted = layout
        .rejected()
        .iter()
        .map(|r| r.noted)
        .collect::<Vec<_>>();
    assert_eq!(noted, [true, false]);
}

#[test]
fn a_reload_after_the_commit_is_no_new_trial() {
    let publisher = Publisher::new();
    let mut updated = Updated::new(&[&publisher], "trial_s = 1");
    start(&mut updated);
    publisher.publish(&updated.release(8), 8, &living(8), |_| ());
    assert_eq!(updated.report("apply", 8, &[])["outcome"], "trial");
    let committed = "SELECT count(*) FROM event WHERE kind = 'update_committed'";
    wait_for("the commit", 30, || {
        let told = updated.station.query::<i64>(committed) == 1;
        (told && updated.layout().trial().is_none()).then_some(())
    });
    updated.station.signal("-HUP");
    let reloaded = "SELECT count(*) FROM event WHERE kind = 'reloaded'";
    wait_for("the reload", 20, || {
        (updated.station.query::<i64>(reloaded) == 1).then_some(())
    });
    assert_eq!(updated.report("check", 8, &[])["outcome"], "up_to_date");
    let trials = updated.station.log().matches("version is on trial").count();
    assert_eq!(trials, 1, "{}", updated.station.log());
}
