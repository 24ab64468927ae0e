//! The address of a broker as users write it: `mqtt://[USER@]HOST[:PORT]`, or `mqtts://` for TLS.

use std::fmt;
use std::str::FromStr;

/// Where a broker is and as whom to log in; the password is never part of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BrokerUrl {
    /// True for `mqtts://`.
    pub tls: bool,
    /// The user name before the `@`, if any.
    pub username: Option<String>,
    /// Host name or address; an IPv6 address keeps its brackets.
    pub host: String,
    /// TCP port; 1883, or 8883 with TLS, unless written.
    pub port: u16,
}

/// Why a text is no broker address.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum BrokerUrlError {
    /// Neither `mqtt://` nor `mqtts://`.
    #[error("broker address `{0}` does not start with mqtt:// or mqtts://")]
    Scheme(String),
    /// A password would end up in process lists and logs.
    #[error("broker address of user `{0}` holds a password; put it into a password file")]
    Password(String),
    /// Nothing between the scheme and the port.
    #[error("broker address `{0}` names no host")]
    Host(String),
    /// The port is not a number from 1 to 65535.
    #[error("`{port}` in broker address `{url}` is not a port (1 to 65535)")]
    Port {
        /// The whole text.
        url: String,
        /// The part that should be a port.
        port: String,
    },
}

impl FromStr for BrokerUrl {
    type Err = BrokerUrlError;

    fn from_str(url: &str) -> Result<Self, Self::Err> {
        let (tls, rest) = if let Some(rest) = url.strip_prefix("mqtt://") {
            (false, rest)
        } else if let Some(rest) = url.strip_prefix("mqtts://") {
            (true, rest)
        } else {
            return Err(BrokerUrlError::Scheme(without_login(url).to_owned()));
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let (username, authority) = match rest.rsplit_once('@') {
            Some((user, authority)) => (Some(user), authority),
            None => (None, rest),
        };
        if let Some((user, _)) = username.and_then(|u| u.split_once(':')) {
            return Err(BrokerUrlError::Password(user.to_owned()));
        }
        // The colons of an IPv6 address stand inside its brackets, before any port.
        let after_address = authority.rfind(']').map_or(0, |end| end + 1);
        let (host, port) = match authority[after_address..].rfind(':') {
            Some(colon) => {
                let (host, port) = authority.split_at(after_address + colon);
                (host, Some(&port[1..]))
            }
            None => (authority, None),
        };
        if host.is_empty() {
            return Err(BrokerUrlError::Host(url.to_owned()));
        }
        let port = match port {
            None => Some(if tls { 8883 } else { 1883 }),
            Some(port) => port.parse().ok().filter(|&p| p != 0),
        }
        .ok_or_else(|| BrokerUrlError::Port {
            url: url.to_owned(),
            port: port.unwrap_or_default().to_owned(),
        })?;
        Ok(Self {
            tls,
            username: username.filter(|u| !u.is_empty()).map(str::to_owned),
            host: host.to_owned(),
            port,
        })
    }
}

/// Whether the text is an address with a password in it, right or wrong otherwise.
pub fn holds_password(text: &str) -> bool {
    let rest = text.split_once("://").map_or(text, |(_, rest)| rest);
    rest.rsplit_once('@')
        .is_some_and(|(login, _)| login.contains(':'))
}

/// What follows the user name and password, which errors must not repeat.
fn without_login(url: &str) -> &str {
    url.rsplit_once('@').map_or(url, |(_, rest)| rest)
}

/// Without the user name: this form goes into logs and errors.
impl fmt::Display for BrokerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "mqtts" } else { "mqtt" };
        write!(f, "{scheme}://{}:{}", self.host, self.port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_parse_with_and_without_user_and_port() {
        for (text, shown, user) in [
            ("mqtt://127.0.0.1:1884", "mqtt://127.0.0.1:1884", None),
            ("mqtt://pi.local", "mqtt://pi.local:1883", None),
            (
                "mqtts://sun@pi.local/",
                "mqtts://pi.local:8883",
                Some("sun"),
            ),
            ("mqtt://[::1]:1900", "mqtt://[::1]:1900", None),
            ("mqtt://[::1]", "mqtt://[::1]:1883", None),
        ] {
            let url: BrokerUrl = text.parse().unwrap();
            assert_eq!(
                (url.to_string().as_str(), url.username.as_deref()),
                (shown, user)
            );
        }
    }

    #[test]
    fn what_is_wrong_with_an_address_is_named() {
        let error = |text: &str| text.parse::<BrokerUrl>().unwrap_err();
        assert!(matches!(error("pi.local:1883"), BrokerUrlError::Scheme(_)));
        assert!(matches!(error("mqtt://"), BrokerUrlError::Host(_)));
        assert!(matches!(error("mqtt://pi:0"), BrokerUrlError::Port { .. }));
        assert!(matches!(error("mqtt://pi:x"), BrokerUrlError::Port { .. }));
        let secret = error("mqtt://sun:secret@pi");
        assert_eq!(secret, BrokerUrlError::Password("sun".to_owned()));
        assert!(!secret.to_string().contains("secret"));
        let wrong_twice = error("tcp://sun:secret@pi").to_string();
        assert!(!wrong_twice.contains("secret"), "{wrong_twice}");
        assert!(holds_password("tcp://sun:secret@pi") && holds_password("sun:se@cret@pi"));
        assert!(!holds_password("mqtts://sun@[::1]:8883"));
    }
}
