//! The description of the routes for programs (OpenAPI 3.1), written by hand and held to the table by a test.

use axum::http::header;
use axum::response::{IntoResponse, Response};

const DOCUMENT: &str = include_str!("openapi.json");

pub(super) async fn openapi() -> Response {
    ([(header::CONTENT_TYPE, "application/json")], DOCUMENT).into_response()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::http::routes::table;

    #[test]
    fn the_document_and_the_table_name_the_same_routes() {
        let document: serde_json::Value = serde_json::from_str(DOCUMENT).unwrap();
        assert_eq!(document["openapi"], "3.1.0");
        let mut described = BTreeSet::new();
        for (path, methods) in document["paths"].as_object().unwrap() {
            for method in methods.as_object().unwrap().keys() {
                if method != "parameters" {
                    described.insert((method.to_uppercase(), path.clone()));
                }
            }
        }
        let routes: BTreeSet<(String, String)> = table()
            .into_iter()
            .map(|(method, path, _)| (method.to_owned(), path.to_owned()))
            .collect();
        assert_eq!(described, routes);
        // And the header of routes.rs, which people read.
        let header: BTreeSet<(String, String)> = include_str!("routes.rs")
            .lines()
            .filter_map(|l| l.strip_prefix("//! | "))
            .filter_map(|l| {
                let (method, rest) = l.split_once('|')?;
                let path = rest.split('`').nth(1)?;
                Some((method.trim().to_owned(), path.to_owned()))
            })
            .collect();
        assert_eq!(header, routes);
    }
}
