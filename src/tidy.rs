//! Reads the tidy CSV of recorded telemetry, plain or gzip, one row at a time in file order.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use flate2::bufread::MultiGzDecoder;
use thiserror::Error;

use crate::mqtt::payload::text_time;
use crate::reading::{DeviceId, Field, TimestampMs, Values};

/// Why a tidy file could not be read.
#[derive(Debug, Error)]
pub enum TidyError {
    /// The file cannot be opened or its first bytes cannot be read.
    #[error("cannot open {path}")]
    Open {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A line is not CSV, is not UTF-8, or the stream under it is damaged.
    #[error("cannot read line {line} of {path}")]
    Row {
        /// The file.
        path: PathBuf,
        /// Line number, from 1.
        line: u64,
        /// What the CSV reader said.
        source: csv::Error,
    },
    /// The header lacks a column without which a row means nothing.
    #[error("{path} has no column {column:?}")]
    Column {
        /// The file.
        path: PathBuf,
        /// The missing column.
        column: &'static str,
    },
    /// No column holds a value.
    #[error(
        "{path} has no column that is known; besides ts and device_id there may be {}",
        Field::ALL.map(Field::name).join(", ")
    )]
    NoValues {
        /// The file.
        path: PathBuf,
    },
    /// A time that cannot be read.
    #[error(
        "line {line} of {path}: ts is {value:?}; accepted: RFC 3339 such as 2026-06-03T12:00:00Z, the same \
         without zone (then it is UTC), or epoch seconds or milliseconds"
    )]
    Time {
        /// The file.
        path: PathBuf,
        /// Line number, from 1.
        line: u64,
        /// What the cell holds.
        value: String,
    },
    /// A cell does not hold what its column promises.
    #[error("line {line} of {path}: {column} is {value:?}")]
    Cell {
        /// The file.
        path: PathBuf,
        /// Line number, from 1.
        line: u64,
        /// The column's name.
        column: &'static str,
        /// What the cell holds.
        value: String,
    },
}

/// One row of the file.
pub type TidyRow = (DeviceId, TimestampMs, Values);

/// An iterator over the rows of one file; columns it does not know are ignored, and of the value
/// columns any may be missing.
pub struct TidyReader {
    path: PathBuf,
    csv: csv::Reader<Box<dyn Read + Send>>,
    record: csv::StringRecord,
    ts_column: usize,
    device_column: usize,
    value_columns: Vec<(Field, usize)>,
    unknown_columns: Vec<String>,
    devices: HashMap<String, DeviceId>,
}

impl TidyReader {
    /// Opens `path` and reads its header. Gzip is told by content, not by name.
    pub fn open(path: &Path) -> Result<Self, TidyError> {
        let open_error = |source| TidyError::Open {
            path: path.to_owned(),
            source,
        };
        let mut file = BufReader::new(File::open(path).map_err(open_error)?);
        let gzip = file
            .fill_buf()
            .map_err(open_error)?
            .starts_with(&[0x1f, 0x8b]);
        let stream: Box<dyn Read + Send> = if gzip {
            Box::new(MultiGzDecoder::new(file))
        } else {
            Box::new(file)
        };
        let mut csv = csv::Reader::from_reader(stream);
        let header = csv.headers().map_err(|source| TidyError::Row {
            path: path.to_owned(),
            line: 1,
            source,
        })?;
        let find = |name: &str| header.iter().position(|h| h.trim() == name);
        let need = |column: &'static str| {
            find(column).ok_or_else(|| TidyError::Column {
                path: path.to_owned(),
                column,
            })
        };
        let (ts_column, device_column) = (need("ts")?, need("device_id")?);
        let value_columns = Field::ALL
            .into_iter()
            .filter_map(|f| find(f.name()).map(|c| (f, c)))
            .collect();
        let known = |name: &str| {
            let mut names = Field::ALL.into_iter().map(Field::name);
            name.is_empty() || ["ts", "device_id"].contains(&name) || names.any(|n| n == name)
        };
        let names = header.iter().map(str::trim);
        let unknown_columns = names.filter(|n| !known(n)).map(str::to_owned).collect();
        Ok(Self {
            path: path.to_owned(),
            csv,
            record: csv::StringRecord::new(),
            ts_column,
            device_column,
            value_columns,
            unknown_columns,
            devices: HashMap::new(),
        })
    }

    /// The names in the header that mean nothing here.
    pub fn unknown_columns(&self) -> &[String] {
        &self.unknown_columns
    }

    /// Whether the file has a column of values at all.
    pub fn has_values(&self) -> bool {
        !self.value_columns.is_empty()
    }

    fn row(&mut self) -> Result<TidyRow, TidyError> {
        let record = &self.record;
        let cell_error = |column, value: &str| TidyError::Cell {
            path: self.path.clone(),
            line: record.position().map_or(0, csv::Position::line),
            column,
            value: value.to_owned(),
        };
        let ts = record.get(self.ts_column).unwrap_or_default().trim();
        let ts = text_time(ts, chrono_tz::UTC).ok_or_else(|| TidyError::Time {
            path: self.path.clone(),
            line: record.position().map_or(0, csv::Position::line),
            value: ts.to_owned(),
        })?;
        let mut values = Values::default();
        for &(field, column) in &self.value_columns {
            let cell = record.get(column).unwrap_or_default().trim();
            if !cell.is_empty() {
                let value = cell.parse().map_err(|_| cell_error(field.name(), cell))?;
                values.set(field, Some(value));
            }
        }
        let name = record.get(self.device_column).unwrap_or_default().trim();
        if name.is_empty() {
            return Err(cell_error("device_id", name));
        }
        let device = match self.devices.get(name) {
            Some(device) => device.clone(),
            None => self
                .devices
                .entry(name.to_owned())
                .or_insert(DeviceId::new(name))
                .clone(),
        };
        Ok((device, ts, values))
    }
}

impl Iterator for TidyReader {
    type Item = Result<TidyRow, TidyError>;

    fn next(&mut self) -> Option<Self::Item> {
        match self.csv.read_record(&mut self.record) {
            Ok(true) => Some(self.row()),
            Ok(false) => None,
            Err(source) => Some(Err(TidyError::Row {
                path: self.path.clone(),
                line: source
                    .position()
                    .map_or_else(|| self.csv.position().line(), csv::Position::line),
                source,
            })),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn file(bytes: &[u8]) -> tempfile::NamedTempFile {
        let mut f = tempfile::NamedTempFile::new().unwrap();
        f.write_all(bytes).unwrap();
        f
    }

    const TEXT: &str = "ts,device_id,power,extra,lux\n\
        2021-03-01T10:00:00Z,a,1.5,9,\n\
        2021-03-01T12:05:00+02:00,b,,9,700\n";

    #[test]
    fn plain_and_gzip_give_the_same_rows_in_file_order() {
        let plain = file(TEXT.as_bytes());
        let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gz.write_all(TEXT.as_bytes()).unwrap();
        let gz = file(&gz.finish().unwrap());
        for f in [plain, gz] {
            let rows: Vec<_> = TidyReader::open(f.path())
                .unwrap()
                .collect::<Result<_, _>>()
                .unwrap();
            assert_eq!(rows.len(), 2);
            assert_eq!(rows[0].0.as_str(), "a");
            assert_eq!(rows[0].2.iter().collect::<Vec<_>>(), [(Field::Power, 1.5)]);
            assert_eq!(rows[1].1.to_string(), "2021-03-01T10:05:00Z");
            assert_eq!(rows[1].2.iter().collect::<Vec<_>>(), [(Field::Lux, 700.0)]);
        }
    }

    #[test]
    fn errors_name_the_file_the_line_and_the_cell() {
        let f =
            file(b"ts,device_id,power\n2021-03-01T10:00:00Z,a,1\n2021-03-01T10:05:00Z,a,lots\n");
        let last = TidyReader::open(f.path()).unwrap().last().unwrap();
        let text = last.unwrap_err().to_string();
        assert!(
            text.contains("line 3") && text.contains("power") && text.contains("lots"),
            "{text}"
        );
        let f = file(b"ts,power\n");
        assert!(matches!(
            TidyReader::open(f.path()),
            Err(TidyError::Column {
                column: "device_id",
                ..
            })
        ));
    }

    #[test]
    fn times_are_read_as_those_in_messages_and_without_zone_as_utc() {
        for (cell, time) in [
            ("2021-03-01T11:00:00+01:00", "2021-03-01T10:00:00Z"),
            ("2021-03-01 10:00:00", "2021-03-01T10:00:00Z"),
            ("1614592800", "2021-03-01T10:00:00Z"),
        ] {
            let f = file(format!("ts,device_id,power\n{cell},a,1\n").as_bytes());
            let row = TidyReader::open(f.path()).unwrap().next().unwrap();
            assert_eq!(row.unwrap().1.to_string(), time, "{cell}");
        }
        let f = file(b"ts,device_id,power\n1 March,a,1\n");
        let row = TidyReader::open(f.path()).unwrap().next().unwrap();
        let text = row.unwrap_err().to_string();
        assert!(text.contains("1 March") && text.contains("UTC"), "{text}");
    }

    #[test]
    fn a_torn_gzip_file_is_an_error_not_the_end() {
        let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gz.write_all(TEXT.as_bytes()).unwrap();
        let mut bytes = gz.finish().unwrap();
        bytes.truncate(bytes.len() - 6);
        let f = file(&bytes);
        let outcome: Result<Vec<_>, _> = TidyReader::open(f.path()).unwrap().collect();
        assert!(matches!(outcome, Err(TidyError::Row { .. })));
    }
}
