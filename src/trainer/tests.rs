//! The child process: its answers, its end and its cancelling.

use super::*;
use std::os::unix::fs::PermissionsExt;

fn any_job() -> Job {
    job(
        &Config::default(),
        TimestampMs(0),
        None,
        None,
        None,
        Narrowed::default(),
    )
}

fn program(dir: &Path, script: &str) -> PathBuf {
    let program = dir.join("trainer");
    std::fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
    std::fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).unwrap();
    program
}

/// A trainer that does what `script` says instead of learning.
async fn with(script: &str, cancel: impl Future<Output = ()>) -> Result<Learned, String> {
    let dir = tempfile::tempdir().unwrap();
    in_child(&program(dir.path(), script), &any_job(), cancel)
        .await
        .map_err(|e| crate::errors::chain(&e))
}

#[tokio::test]
async fn a_trainer_that_dies_or_babbles_is_a_failed_run_with_its_reason() {
    let never = std::future::pending::<()>;
    let killed = with("cat >/dev/null; kill -9 $$", never())
        .await
        .unwrap_err();
    assert!(killed.contains("signal: 9"), "{killed}");
    let failed = with("cat >/dev/null; echo no memory >&2; exit 1", never())
        .await
        .unwrap_err();
    assert!(failed.contains("no memory"), "{failed}");
    let babbled = with("cat >/dev/null; echo hello", never())
        .await
        .unwrap_err();
    assert!(babbled.contains("answer"), "{babbled}");
    let job = any_job();
    let missing = in_child(Path::new("/nowhere"), &job, never());
    assert!(missing.await.unwrap_err().to_string().contains("/nowhere"));
}

#[tokio::test]
async fn what_may_succeed_another_time_is_told_from_what_will_not() {
    let kind = async |script: &str| {
        let never = std::future::pending::<()>();
        let dir = tempfile::tempdir().unwrap();
        let error = in_child(&program(dir.path(), script), &any_job(), never).await;
        error.unwrap_err().kind()
    };
    let read = "cat >/dev/null;";
    for (script, wanted) in [
        ("kill -9 $$", FailureKind::Transient),
        ("kill -6 $$", FailureKind::Permanent),
        ("exit 1", FailureKind::Permanent),
        ("echo hello", FailureKind::Permanent),
        (
            r#"echo '{"refused":{"causes":["disk"],"kind":"transient"}}'"#,
            FailureKind::Transient,
        ),
    ] {
        assert_eq!(kind(&format!("{read} {script}")).await, wanted, "{script}");
    }
    let memory = with(
        "cat >/dev/null; echo memory allocation of 9 bytes failed >&2; kill -6 $$",
        std::future::pending::<()>(),
    );
    let said = memory.await.unwrap_err();
    assert!(said.contains("max_memory_mb = 512"), "{said}");
}

#[tokio::test]
async fn cancelling_ends_a_trainer_that_does_not_end_by_itself() {
    let cancelled = with("exec sleep 1000", tokio::task::yield_now())
        .await
        .unwrap_err();
    assert!(cancelled.contains("stopped during the run"), "{cancelled}");
}
