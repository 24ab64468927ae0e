//! Single values that must survive a restart, as text under a key.

use rusqlite::{OptionalExtension, params};

use super::{Reader, Store, StoreError, migrations, sql};

impl Store {
    /// Keeps `value` under `key`, in place of what was there.
    pub async fn keep(&self, key: &'static str, value: String) -> Result<(), StoreError> {
        self.run("keep a value", move |tx| {
            tx.execute(
                "INSERT INTO meta (key, value) VALUES (?1, ?2) ON CONFLICT (key) DO UPDATE SET value = ?2",
                params![key, value],
            )
            .map(drop)
        })
        .await
    }
}

impl Reader {
    /// The schema the file has; of a newer version's file more than ours.
    pub fn schema(&self) -> Result<i64, StoreError> {
        migrations::version(&self.conn)
    }

    /// What is kept under `key`.
    pub fn kept(&self, key: &str) -> Result<Option<String>, StoreError> {
        self.conn
            .query_row("SELECT value FROM meta WHERE key = ?1", [key], |r| r.get(0))
            .optional()
            .map_err(sql("read a kept value"))
    }
}
