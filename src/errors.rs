//! An error with its causes, in one line, for logs and people.

/// The error and what caused it, each said once.
pub fn chain(error: &dyn std::error::Error) -> String {
    causes(error).join(": ")
}

/// [`chain`], each cause for itself.
pub fn causes(error: &dyn std::error::Error) -> Vec<String> {
    let mut said = vec![error.to_string()];
    let mut cause = error.source();
    while let Some(c) = cause {
        let next = c.to_string();
        // Many libraries repeat their cause in their own message.
        if !said.iter().any(|s| s.contains(&next)) {
            said.push(next);
        }
        cause = c.source();
    }
    said
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{0}")]
    struct Layer(&'static str, #[source] Option<Box<Layer>>);

    #[test]
    fn causes_follow_and_are_not_repeated() {
        let error = Layer(
            "a",
            Some(Box::new(Layer("b", Some(Box::new(Layer("b", None)))))),
        );
        assert_eq!(chain(&error), "a: b");
    }
}
