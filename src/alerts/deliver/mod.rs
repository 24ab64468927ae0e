//! The ways an alert takes to people: webhook and mail. A secret is read here and goes to its server only.

mod email;
mod webhook;

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::Notice;
use crate::config::{AlertsConfig, MailSecurity};
use crate::mqtt::link::LinkError;
use email::Email;
use webhook::Webhook;

/// One try may take this long.
const LIMIT: Duration = Duration::from_secs(30);

/// Why an alert could not be told, or never can be. No text of it holds a secret.
#[derive(Debug, thiserror::Error)]
pub enum DeliverError {
    /// A certificate that the channel needs cannot be used.
    #[error(transparent)]
    Tls(#[from] LinkError),
    /// A file with a secret cannot be read.
    #[error("cannot read {what} in {}", path.display())]
    Secret {
        /// What it holds.
        what: &'static str,
        /// Where.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The channel cannot be used as it is configured.
    #[error("cannot use [alerts.{channel}]: {why}")]
    Setup {
        /// Which channel.
        channel: &'static str,
        /// Why.
        why: String,
    },
    /// The other side was not reached, or did not take it.
    #[error("{channel}: {why}")]
    Failed {
        /// Which channel.
        channel: &'static str,
        /// Why.
        why: String,
    },
}

/// A text that does not print.
#[derive(Clone)]
struct Secret(String);

/// A way out.
pub enum Channel {
    /// JSON by POST.
    Webhook(Webhook),
    /// A mail.
    Email(Box<Email>),
}

impl Channel {
    /// Every channel that is configured; reads the secrets and certificates it names. `credentials` is
    /// systemd's folder.
    pub fn configured(
        alerts: &AlertsConfig,
        credentials: Option<&Path>,
    ) -> Result<Vec<Self>, DeliverError> {
        let mut channels = Vec::new();
        if let Some(url) = &alerts.webhook.url {
            let token = secret(
                "the webhook's token",
                alerts.webhook.token_file.as_deref(),
                credentials,
                "alerts-webhook-token",
            )?;
            let webhook = Webhook::new(url, token, alerts.webhook.ca_file.as_deref())?;
            channels.push(Self::Webhook(webhook));
        }
        if alerts.email.server.is_some() && !alerts.email.to.is_empty() {
            let password = match &alerts.email.username {
                None => None,
                Some(_) => secret(
                    "the mail password",
                    alerts.email.password_file.as_deref(),
                    credentials,
                    "alerts-email-password",
                )?,
            };
            let email = Email::new(&alerts.email, password)?;
            channels.push(Self::Email(Box::new(email)));
        }
        Ok(channels)
    }

    /// The stored word.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Webhook(_) => "webhook",
            Self::Email(_) => "email",
        }
    }

    /// Tells it once; within half a minute it was taken or was not.
    pub async fn send(&self, notice: &Notice) -> Result<(), DeliverError> {
        let sent = async {
            match self {
                Self::Webhook(webhook) => webhook.send(notice).await,
                Self::Email(email) => email.send(notice).await,
            }
        };
        let late = |_| DeliverError::Failed {
            channel: self.name(),
            why: format!("no answer within {} s", LIMIT.as_secs()),
        };
        tokio::time::timeout(LIMIT, sent).await.map_err(late)?
    }
}

/// What types and ranges cannot say of `[alerts]`: the key and what is wrong with it.
pub fn check(alerts: &AlertsConfig) -> Result<(), (&'static str, String)> {
    if let Some(url) = &alerts.webhook.url {
        webhook::target(url).map_err(|why| ("webhook.url", why))?;
    }
    let email = &alerts.email;
    if email.server.is_some() == email.to.is_empty()
        || email.server.is_some() != email.from.is_some()
    {
        return Err(("email", "server, from and to go together".into()));
    }
    for (key, address) in (email.from.iter().map(|a| ("email.from", a)))
        .chain(email.to.iter().map(|a| ("email.to", a)))
    {
        email::address(address).map_err(|why| (key, why))?;
    }
    if email.username.is_some() && email.security == MailSecurity::None {
        let problem = "a password is sent over starttls or tls only";
        return Err(("email.username", problem.into()));
    }
    Ok(())
}

/// The first line of `file`, else of systemd's credential `name` where there is one.
fn secret(
    what: &'static str,
    file: Option<&Path>,
    credentials: Option<&Path>,
    name: &str,
) -> Result<Option<Secret>, DeliverError> {
    let credential = credentials.map(|folder| folder.join(name));
    let path = match (file, credential) {
        (Some(file), _) => file.to_owned(),
        (None, Some(credential)) if credential.exists() => credential,
        _ => return Ok(None),
    };
    let text = std::fs::read_to_string(&path).map_err(|source| DeliverError::Secret {
        what,
        path: path.clone(),
        source,
    })?;
    Ok(Some(Secret(text.lines().next().unwrap_or("").to_owned())))
}
