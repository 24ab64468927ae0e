//! The stream below hyper: keeps the bare answer back that hyper gives to what it cannot read, so that it gets one with a body.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use axum::http::StatusCode;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// hyper's own answers are a few short lines.
const BARE_BYTES: usize = 512;

/// A connection, and the status of the answer that was kept back.
pub(super) struct Wire<Stream> {
    pub(super) stream: Stream,
    pub(super) kept_back: Option<StatusCode>,
}

/// The status of an answer without a word: none of ours, each of which says of what type it is.
fn bare(bytes: &[u8]) -> Option<StatusCode> {
    let head = bytes.strip_prefix(b"HTTP/1.")?.strip_suffix(b"\r\n\r\n")?;
    if bytes.len() > BARE_BYTES {
        return None;
    }
    let typed = head
        .split(|b| *b == b'\n')
        .any(|line| line.starts_with(b"content-type:"));
    let status = StatusCode::from_bytes(head.get(2..5)?).ok()?;
    (status.is_client_error() && !typed).then_some(status)
}

impl<Stream: AsyncRead + Unpin> AsyncRead for Wire<Stream> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

/// Not vectored: what is written comes in one piece that can be looked at.
impl<Stream: AsyncWrite + Unpin> AsyncWrite for Wire<Stream> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if let Some(status) = bare(bytes) {
            self.kept_back = Some(status);
            return Poll::Ready(Ok(bytes.len()));
        }
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    /// The last word is still to come.
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.kept_back {
            Some(_) => Poll::Ready(Ok(())),
            None => Pin::new(&mut self.stream).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_answer_without_a_word_is_kept_back() {
        let of = |text: &str| bare(text.as_bytes()).map(|s| s.as_u16());
        let date = "date: Sun, 22 Nov 2026 11:00:00 GMT\r\n\r\n";
        let bad = "HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-length: 0\r\n";
        assert_eq!(of(&format!("{bad}{date}")), Some(400));
        assert_eq!(of(&format!("HTTP/1.0 431 Too large\r\n{date}")), Some(431));
        let ours = "HTTP/1.1 404 Not Found\r\ncontent-type: application/problem+json\r\n";
        assert_eq!(of(&format!("{ours}{date}")), None);
        assert_eq!(of(&format!("{bad}{date}body")), None);
        assert_eq!(of(&format!("HTTP/1.1 200 OK\r\n{date}")), None);
        assert_eq!(of(""), None);
    }
}
