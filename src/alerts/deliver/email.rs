//! A mail by SMTP, over lettre and rustls; a repeat has the same Message-ID, so that mailboxes can tell.

use lettre::address::AddressError;
use lettre::message::Mailbox;
use lettre::transport::smtp::authentication::Credentials;
use lettre::transport::smtp::client::{Certificate, CertificateStore, Tls, TlsParameters};
use lettre::{Message, SmtpTransport, Transport};

use super::{DeliverError, LIMIT, Secret};
use crate::alerts::Notice;
use crate::config::{EmailConfig, MailSecurity};
use crate::mqtt::tls;

/// Where and how to send.
pub struct Email {
    transport: SmtpTransport,
    from: Mailbox,
    to: Vec<Mailbox>,
    server: String,
}

/// `name@host`, or `Name <name@host>`.
pub(super) fn address(text: &str) -> Result<Mailbox, String> {
    text.parse()
        .map_err(|e: AddressError| format!("{text:?} is no mail address: {e}"))
}

impl Email {
    /// Reads the authority named in `[alerts.email]`, or the system's, unless there is no TLS.
    pub(super) fn new(email: &EmailConfig, password: Option<Secret>) -> Result<Self, DeliverError> {
        let setup = |why: String| DeliverError::Setup {
            channel: "email",
            why,
        };
        let server = email.server.clone().unwrap_or_default();
        let (port, tls) = match email.security {
            MailSecurity::None => (25, Tls::None),
            MailSecurity::StartTls => (587, Tls::Required(parameters(email, &server)?)),
            MailSecurity::Tls => (465, Tls::Wrapper(parameters(email, &server)?)),
        };
        // "Dangerous" are its defaults, and none of them is left.
        let mut transport = SmtpTransport::builder_dangerous(&server)
            .port(email.port.unwrap_or(port))
            .tls(tls)
            .timeout(Some(LIMIT / 3));
        if let (Some(user), Some(Secret(password))) = (&email.username, password) {
            transport = transport.credentials(Credentials::new(user.clone(), password));
        }
        let from = email.from.as_deref().unwrap_or_default();
        let to = email.to.iter().map(|to| address(to).map_err(setup));
        Ok(Self {
            transport: transport.build(),
            from: address(from).map_err(setup)?,
            to: to.collect::<Result<_, _>>()?,
            server,
        })
    }

    pub(super) async fn send(&self, notice: &Notice) -> Result<(), DeliverError> {
        let failed = |why: String| DeliverError::Failed {
            channel: "email",
            why,
        };
        let message = self.message(notice).map_err(|e| failed(e.to_string()))?;
        let transport = self.transport.clone();
        // It waits for the server, so on a thread for that.
        let sent = tokio::task::spawn_blocking(move || transport.send(&message)).await;
        match sent {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(failed(format!("{}: {error}", self.server))),
            Err(_) => Err(failed("sending broke off".into())),
        }
    }

    fn message(&self, notice: &Notice) -> Result<Message, lettre::error::Error> {
        let mut message = Message::builder()
            .from(self.from.clone())
            .subject(notice.title())
            .message_id(Some(message_id(notice)));
        for to in &self.to {
            message = message.to(to.clone());
        }
        message.body(body(notice))
    }
}

fn parameters(email: &EmailConfig, server: &str) -> Result<TlsParameters, DeliverError> {
    let setup = |why: String| DeliverError::Setup {
        channel: "email",
        why,
    };
    let mut builder = TlsParameters::builder(server.to_owned());
    if let Some(path) = &email.ca_file {
        builder = builder.certificate_store(CertificateStore::None);
        for der in tls::certificates(path)? {
            let certificate = Certificate::from_der(der.to_vec());
            builder = builder.add_root_certificate(certificate.map_err(|e| setup(e.to_string()))?);
        }
    }
    builder.build_rustls().map_err(|e| setup(e.to_string()))
}

fn message_id(notice: &Notice) -> String {
    // Only what a Message-ID may hold.
    let plain = |text: &str| {
        let kept = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        text.chars().filter(kept).collect::<String>()
    };
    format!(
        "<{}.{}.{}.{}@{}.nightwatt>",
        plain(&notice.kind),
        plain(&notice.subject),
        plain(&notice.raised),
        notice.state,
        plain(&notice.station)
    )
}

fn body(notice: &Notice) -> String {
    let mut lines = vec![notice.text.clone(), String::new()];
    if let Some(next_step) = &notice.next_step {
        lines.extend([format!("What to do: {next_step}"), String::new()]);
    }
    lines.push(format!("Station: {}", notice.station));
    lines.push(format!("Since: {}", notice.raised));
    if let Some(cleared) = &notice.cleared {
        lines.push(format!("Over: {cleared}"));
    }
    let number = notice.id.map_or(String::new(), |id| format!(" {id}"));
    lines.push(format!("Alert{number}: {} ({})", notice.kind, notice.state));
    lines.join("\r\n") + "\r\n"
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reading::TimestampMs;

    #[test]
    fn a_mail_says_what_and_since_when_and_its_id_is_that_of_its_repeat() {
        let notice = Notice {
            kind: "device_silent".into(),
            subject: "t 07>\r\nBcc: x".into(),
            text: "t07 is silent\r\nBcc: x".into(),
            ..Notice::test("pi", TimestampMs(0))
        };
        let email = Email::new(
            &EmailConfig {
                server: Some("h".into()),
                from: Some("a@b.example".into()),
                to: vec!["Me <c@d.example>".into()],
                security: MailSecurity::None,
                ..EmailConfig::default()
            },
            None,
        )
        .unwrap_or_else(|e| panic!("{e}"));
        let text = email.message(&notice).unwrap().formatted();
        let text = String::from_utf8(text).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(
            head.contains("Subject: [pi] test: t07 is silent  Bcc: x"),
            "{head}"
        );
        assert!(!head.contains("\r\nBcc"), "{head}");
        let id = "Message-ID: <device_silent.t07Bccx.1970-01-01T000000Z.test@pi.nightwatt>";
        assert!(head.contains(id), "{head}");
        assert!(body.contains("Since: 1970-01-01T00:00:00Z"), "{body}");
    }
}
