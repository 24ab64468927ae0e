//! Models as bytes, state and figures; the pointer to the live one is the row whose state says so.

use rusqlite::{OptionalExtension, Transaction, params};

use super::writer::note_event;
use super::{LifeRow, ModelRow, NewModel, Reader, Store, StoreError, sql};
use crate::reading::TimestampMs;
use crate::registry::{Move, Refusal, State};

/// Versions kept beside the live one and the one that a rollback would bring back.
const KEEP: i64 = 30;

/// Lives that a rollback goes back through, the latest first: those before the present one began, or
/// where that was a rollback itself, before the one it went back to.
const EARLIER: &str =
    "SELECT version, coalesce(back_to, id) FROM model_life JOIN model USING (version)
    WHERE state = 'retired'
      AND id < (SELECT coalesce(back_to, id) FROM model_life WHERE to_ms IS NULL)
    ORDER BY id DESC";

/// What happens to one version, and why.
#[derive(Clone, Debug)]
pub struct ModelMove {
    /// The version.
    pub version: i64,
    /// What happens.
    pub step: Move,
    /// Why, in one sentence.
    pub why: String,
    /// The earlier life that it takes up again, where it is promoted by going back.
    pub back_to: Option<i64>,
}

impl Store {
    /// Keeps a model in the state it was given, which is not that of the live one; returns its
    /// version.
    pub async fn add_model(&self, model: NewModel) -> Result<i64, StoreError> {
        self.run("keep a model", move |tx| {
            tx.execute(
                "INSERT INTO model (state, run_id, created_ms, reason, metrics, bytes)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
                params![
                    model.state,
                    model.run_id,
                    model.created.0,
                    model.reason,
                    model.metrics,
                    model.bytes
                ],
            )?;
            let version = tx.last_insert_rowid();
            let earlier: Option<i64> = tx.query_row(EARLIER, [], |r| r.get(0)).optional()?;
            tx.execute(
                "DELETE FROM model WHERE state <> 'live' AND version IS NOT ?2 AND version NOT IN
                     (SELECT version FROM model WHERE state <> 'live' ORDER BY version DESC LIMIT ?1)",
                params![KEEP, earlier],
            )?;
            Ok(version)
        })
        .await
    }

    /// Carries out moves at `at`, all of them or none; what goes live retires what was live.
    pub async fn move_models(
        &self,
        at: TimestampMs,
        moves: Vec<ModelMove>,
    ) -> Result<Result<(), Refusal>, StoreError> {
        self.run("move a model", move |tx| {
            // Judged before anything is written: what is refused leaves no trace.
            let mut legal = Vec::new();
            for m in moves {
                match next(tx, &m)? {
                    Ok(next) => legal.push((m, next)),
                    Err(refusal) => return Ok(Err(refusal)),
                }
            }
            for (m, next) in legal {
                apply(tx, at, &m, next)?;
            }
            Ok(Ok(()))
        })
        .await
    }
}

/// The state that a move leads to.
fn next(tx: &Transaction<'_>, m: &ModelMove) -> rusqlite::Result<Result<State, Refusal>> {
    let version = m.version;
    let word: Option<String> = tx
        .query_row(
            "SELECT state FROM model WHERE version = ?1",
            [version],
            |r| r.get(0),
        )
        .optional()?;
    let Some(state) = word.and_then(|word| State::parse(&word)) else {
        return Ok(Err(Refusal::Unknown { version }));
    };
    Ok(state.after(m.step).ok_or(Refusal::Illegal {
        version,
        state,
        step: m.step,
    }))
}

fn apply(
    tx: &Transaction<'_>,
    at: TimestampMs,
    m: &ModelMove,
    next: State,
) -> rusqlite::Result<()> {
    if next == State::Live {
        tx.execute(
            "UPDATE model SET state = ?2, retired_ms = ?1 WHERE state = 'live'",
            params![at.0, State::Retired.as_str()],
        )?;
        end_life(tx, at)?;
        tx.execute(
            "INSERT INTO model_life (version, from_ms, why, back_to) VALUES (?1, ?2, ?3, ?4)",
            params![m.version, at.0, m.why, m.back_to],
        )?;
        // The reason stays the gate's; why it is live now stands in its life.
        tx.execute(
            "UPDATE model SET state = ?2, promoted_ms = ?3, retired_ms = NULL WHERE version = ?1",
            params![m.version, next.as_str(), at.0],
        )?;
        let kind = match m.back_to {
            None => "model_promoted",
            Some(_) => "model_rolled_back",
        };
        let said = format!("model version {} is live: {}", m.version, m.why);
        return note_event(tx, at, kind, &said);
    }
    let was_live: bool = tx.query_row(
        "SELECT state = 'live' FROM model WHERE version = ?1",
        [m.version],
        |r| r.get(0),
    )?;
    if was_live {
        end_life(tx, at)?;
    }
    tx.execute(
        "UPDATE model SET state = ?2, reason = ?3,
                retired_ms = CASE WHEN state = 'live' THEN ?4 ELSE retired_ms END
         WHERE version = ?1",
        params![m.version, next.as_str(), m.why, at.0],
    )
    .map(drop)
}

fn end_life(tx: &Transaction<'_>, at: TimestampMs) -> rusqlite::Result<()> {
    tx.execute(
        "UPDATE model_life SET to_ms = ?1 WHERE to_ms IS NULL",
        [at.0],
    )
    .map(drop)
}

impl Reader {
    /// The newest models, newest first, without their bytes.
    pub fn models(&self, limit: usize) -> Result<Vec<ModelRow>, StoreError> {
        self.select_models("ORDER BY version DESC LIMIT ?1", limit as i64)
    }

    /// The live model without its bytes.
    pub fn live_model_row(&self) -> Result<Option<ModelRow>, StoreError> {
        Ok(self
            .select_models("WHERE state = 'live' LIMIT ?1", 1)?
            .pop())
    }

    /// One model without its bytes.
    pub fn model(&self, version: i64) -> Result<Option<ModelRow>, StoreError> {
        Ok(self.select_models("WHERE version = ?1", version)?.pop())
    }

    /// The newest model that turned out to be damaged and that no later one has replaced.
    pub fn damaged_model_row(&self) -> Result<Option<ModelRow>, StoreError> {
        let clause = "WHERE state = 'damaged'
              AND version > coalesce((SELECT version FROM model WHERE state = 'live'), 0)
            ORDER BY version DESC LIMIT ?1";
        Ok(self.select_models(clause, 1)?.pop())
    }

    /// What can be gone back to from the live model, the latest first: versions and the lives they had.
    pub fn earlier_models(&self) -> Result<Vec<(i64, i64)>, StoreError> {
        self.rows("list the models that were live before", EARLIER, [], |r| {
            Ok((r.get(0)?, r.get(1)?))
        })
    }

    /// When which version was live and why, the latest first.
    pub fn model_lives(&self, limit: usize) -> Result<Vec<LifeRow>, StoreError> {
        self.rows(
            "read the history of the live model",
            "SELECT version, from_ms, to_ms, why FROM model_life ORDER BY id DESC LIMIT ?1",
            [limit as i64],
            |r| {
                Ok(LifeRow {
                    version: r.get(0)?,
                    from: TimestampMs(r.get(1)?),
                    to: r.get::<_, Option<i64>>(2)?.map(TimestampMs),
                    why: r.get(3)?,
                })
            },
        )
    }

    fn select_models(&self, clause: &str, value: i64) -> Result<Vec<ModelRow>, StoreError> {
        let query = format!(
            "SELECT version, state, created_ms, promoted_ms, retired_ms, reason, metrics, length(bytes)
             FROM model {clause}"
        );
        self.rows("list models", &query, [value], |r| {
            let time = |i| r.get::<_, Option<i64>>(i).map(|t| t.map(TimestampMs));
            Ok(ModelRow {
                version: r.get(0)?,
                state: r.get(1)?,
                created: TimestampMs(r.get(2)?),
                promoted: time(3)?,
                retired: time(4)?,
                reason: r.get(5)?,
                metrics: serde_json::from_str(&r.get::<_, String>(6)?).unwrap_or_default(),
                size: r.get(7)?,
            })
        })
    }

    /// A version's bytes.
    pub fn model_bytes(&self, version: i64) -> Result<Option<Vec<u8>>, StoreError> {
        self.conn
            .query_row(
                "SELECT bytes FROM model WHERE version = ?1",
                [version],
                |r| r.get(0),
            )
            .optional()
            .map_err(sql("read a model"))
    }

    /// The live model's version.
    pub fn live_version(&self) -> Result<Option<i64>, StoreError> {
        Ok(self.live_model_row()?.map(|row| row.version))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{NewRun, Nobody, Writer};

    fn to(version: i64, step: Move) -> Vec<ModelMove> {
        let why = format!("{step:?}");
        let back_to = None;
        vec![ModelMove {
            version,
            step,
            why,
            back_to,
        }]
    }

    #[tokio::test]
    async fn a_move_is_legal_or_leaves_no_trace_and_history_says_what_was_live_when() {
        let dir = tempfile::tempdir().unwrap();
        let db = dir.path().join("n.db");
        let store = Writer::start(&db, std::time::Duration::ZERO, 1, Nobody).unwrap();
        let run = NewRun {
            kind: "training",
            mode: "full".into(),
            trigger: "manual",
            nominal: None,
            started: TimestampMs(0),
        };
        let run_id = store.start_run(run).await.unwrap();
        let add = async |state: State| {
            let model = NewModel {
                run_id,
                created: TimestampMs(1),
                state: state.as_str(),
                reason: "the gate's".into(),
                metrics: "{}".into(),
                bytes: vec![7],
            };
            store.add_model(model).await.unwrap()
        };
        let go = async |at, moves| store.move_models(TimestampMs(at), moves).await.unwrap();
        let reader = Reader::open(&db).unwrap();
        let live = || reader.live_version().unwrap();
        for (at, version) in [(10, 1), (20, 2), (30, 3)] {
            assert_eq!(add(State::Candidate).await, version);
            go(at, to(version, Move::Promote)).await.unwrap();
            assert_eq!(live(), Some(version));
        }
        assert_eq!(add(State::Rejected).await, 4);
        let refused = go(40, to(4, Move::Promote)).await.unwrap_err();
        assert!(refused.to_string().contains("4 was rejected"), "{refused}");
        assert!(go(40, to(9, Move::Promote)).await.is_err());
        // The second of these is illegal, so the first does not happen either.
        let both = [to(3, Move::Condemn), to(4, Move::Promote)].concat();
        assert!(go(40, both).await.is_err());
        assert_eq!(live(), Some(3));
        assert_eq!(reader.damaged_model_row().unwrap(), None);
        let both = [to(3, Move::Condemn), to(2, Move::Promote)].concat();
        go(50, both).await.unwrap();
        assert_eq!(live(), Some(2));
        assert_eq!(reader.damaged_model_row().unwrap().unwrap().version, 3);
        let lives: Vec<_> = reader
            .model_lives(9)
            .unwrap()
            .into_iter()
            .map(|l| (l.version, l.from.0, l.to.map(|t| t.0), l.why))
            .collect();
        let why = || "Promote".to_owned();
        assert_eq!(
            lives,
            [
                (2, 50, None, why()),
                (3, 30, Some(50), why()),
                (2, 20, Some(30), why()),
                (1, 10, Some(20), why()),
            ]
        );
        // Thirty more nights without a better model leave what a rollback needs.
        for _ in 0..32 {
            add(State::Rejected).await;
        }
        assert_eq!(reader.models(99).unwrap().len(), 30 + 2);
        // Back, further back, and where somebody promotes, back from there.
        let earlier = || reader.earlier_models().unwrap();
        assert_eq!(earlier(), [(1, 1)], "3 is damaged, 2 is live");
        for version in [36, 37] {
            assert_eq!(add(State::Candidate).await, version + 1);
            go(60, to(version + 1, Move::Promote)).await.unwrap();
        }
        let mut gone_back = Vec::new();
        while let Some((version, life)) = earlier().first().copied() {
            let mut back = to(version, Move::Promote);
            back[0].back_to = Some(life);
            go(70, back).await.unwrap();
            gone_back.push(version);
        }
        assert_eq!(gone_back, [37, 2], "1 is no longer kept");
        go(80, to(38, Move::Promote)).await.unwrap();
        assert_eq!(earlier()[0].0, 2, "what was live before");
        store.stop().await;
    }
}
