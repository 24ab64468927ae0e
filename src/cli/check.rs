//! `check-config`: whether a configuration holds, and what it turns on.

use std::path::Path;

use super::run::{credentials, no_file};
use super::{Exit, Failure, Outcome};
use crate::config::{AutoUpdate, Config, HttpConfig, UpdateConfig};
use crate::daemon::reload;
use crate::errors::chain;
use crate::mqtt::payload::{self, Reader};
use crate::sun::Site;
use crate::update::signature::Keys;

pub(super) fn check_config(path: Option<&Path>, config: &Config) -> Outcome {
    reload::check(config, credentials().as_deref()).map_err(|e| Failure(Exit::Usage, chain(&e)))?;
    println!("configuration is valid");
    for (label, text) in summary(config, no_file(path)) {
        println!("  {label:<14} {text}");
    }
    Ok(Exit::Done)
}

/// What a configuration turns on, a line each.
fn summary(config: &Config, no_file: bool) -> Vec<(&'static str, String)> {
    let mut lines = Vec::new();
    if no_file {
        lines.push(("file", "none: everything has its default".into()));
    }
    let mqtt = &config.mqtt;
    lines.push(("broker", format!("{} as {}", mqtt.url, mqtt.client_id)));
    let reader = Reader::new(&mqtt.topics, mqtt.max_age_days);
    let keys = reader.iter().flat_map(Reader::device_keys);
    for (rule, keys) in mqtt.topics.iter().zip(keys) {
        let mut text = format!("{} ({})", rule.filter, rule.preset_name());
        if let Some(keys) = keys {
            let keys = keys.join(" or ");
            text += &format!(": refuses what does not name its device as {keys}");
        }
        lines.push(("topic", text));
    }
    let filters: Vec<&str> = mqtt.topics.iter().map(|t| t.filter.as_str()).collect();
    for (a, b) in payload::overlapping(&filters) {
        let text = format!("{a} and {b} share topics: brokers may deliver what matches both twice");
        lines.push(("topics", text));
    }
    lines.push(("store", config.store.path.display().to_string()));
    lines.push(("socket", config.http.socket.display().to_string()));
    let site = match config.site.site() {
        Some(site) => place(site),
        None => "not given: no features of the sun's position".into(),
    };
    lines.push(("site", format!("{site}; times of {}", config.site.zone())));
    let training = &config.training;
    let horizons: Vec<String> = training.horizon_min.iter().map(|m| m.to_string()).collect();
    let schedule = if training.enabled {
        training.schedule.to_string()
    } else {
        "never".into()
    };
    let text = format!("{schedule}, {} min ahead", horizons.join(", "));
    lines.push(("training", text));
    lines.push(("http", http(&config.http)));
    lines.push(("alerts", alerts(config)));
    let home = &config.home_assistant;
    let text = match home.enabled {
        true => format!("told of every device, below {}", home.discovery_prefix),
        false => "not told".into(),
    };
    lines.push(("home assistant", text));
    lines.push(("updates", updates(&config.update)));
    lines
}

/// `40.45 N, 3.73 W`.
fn place(site: Site) -> String {
    let half = |degrees: f64, [positive, negative]: [char; 2]| {
        let letter = if degrees < 0.0 { negative } else { positive };
        format!("{} {letter}", degrees.abs())
    };
    let latitude = half(site.latitude_deg, ['N', 'S']);
    format!("{latitude}, {}", half(site.longitude_deg, ['E', 'W']))
}

fn http(http: &HttpConfig) -> String {
    let Some(listen) = http.listen else {
        return "off: no dashboard, and no interface but the socket".into();
    };
    let changes = match (&http.token_file, credentials()) {
        (Some(file), _) => format!("changes take the token in {}", file.display()),
        (None, Some(folder)) if folder.join("http-token").exists() => {
            "changes take the token of the systemd credential".into()
        }
        _ => "read only: there is no token".into(),
    };
    format!("http://{listen}/, {changes}")
}

fn alerts(config: &Config) -> String {
    let alerts = &config.alerts;
    let mut ways = Vec::new();
    if alerts.mqtt {
        ways.push(format!("by MQTT below {}/alerts", config.mqtt.topic_prefix));
    }
    if let Some(url) = &alerts.webhook.url {
        // A path or a user's name may be a secret.
        let host = url.split('/').nth(2).unwrap_or_default();
        let host = host.rsplit('@').next().unwrap_or_default();
        ways.push(format!("webhook at {host}"));
    }
    if let Some(server) = &alerts.email.server {
        let to = alerts.email.to.join(", ");
        ways.push(format!("mail to {to} through {server}"));
    }
    match ways.is_empty() {
        true => "nobody is told; nightwatt alerts lists them".into(),
        false => ways.join("; "),
    }
}

fn updates(update: &UpdateConfig) -> String {
    // Keys that are none are refused before this.
    let trusts_nobody = Keys::new(&update.public_keys).is_ok_and(|keys| keys.is_empty());
    if !update.enabled {
        return match trusts_nobody {
            true => "not looked for, and refused by hand: no public key is known, set [update] public_keys".into(),
            false => "not looked for; nightwatt update does it by hand".into(),
        };
    }
    let then = match update.auto {
        AutoUpdate::Check => "told of",
        AutoUpdate::Fetch => "fetched",
        AutoUpdate::Apply => "fetched and tried",
    };
    let (schedule, source) = (&update.schedule, &update.source);
    match trusts_nobody {
        true => "never taken: no public key is known, set [update] public_keys".into(),
        false => format!("looked for at {source} ({schedule}), and {then}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn west_and_south_have_their_letters() {
        let at = |latitude_deg, longitude_deg| {
            place(Site {
                latitude_deg,
                longitude_deg,
            })
        };
        assert_eq!(at(40.45, -3.73), "40.45 N, 3.73 W");
        assert_eq!(at(-7.77, 110.38), "7.77 S, 110.38 E");
    }

    #[test]
    fn what_is_turned_on_is_said_without_its_secrets() {
        let text = "[http]\nlisten = \"127.0.0.1:8465\"\n[alerts.webhook]\nurl = \
                    \"https://me:word@hook.example/secret\"\n[home_assistant]\nenabled = true\n\
                    [update]\nenabled = true\nsource = \"/srv/updates\"";
        let mut config: Config = toml::from_str(text).unwrap();
        let said = |config: &Config| -> String {
            let lines = summary(config, false).into_iter();
            lines
                .map(|(label, text)| format!("{label}: {text}\n"))
                .collect()
        };
        let shown = said(&config);
        for part in [
            "http: http://127.0.0.1:8465/, read only",
            "alerts: by MQTT below nightwatt/alerts; webhook at hook.example\n",
            "home assistant: told of every device, below homeassistant",
            "updates: never taken: no public key is known, set [update] public_keys\n",
        ] {
            assert!(shown.contains(part), "{part}: {shown}");
        }
        assert!(
            !shown.contains("secret") && !shown.contains("word"),
            "{shown}"
        );
        let key = "RWQf6LRCGA9i53mlYecO4IzT51TGPpvWucNSCh1CBM0QTaLn73Y7GFO3";
        config.update.public_keys = vec![key.into()];
        let shown = said(&config);
        let part = "updates: looked for at /srv/updates (every 6h), and told of\n";
        assert!(shown.contains(part), "{shown}");
        config.update.enabled = false;
        let shown = said(&config);
        let part = "updates: not looked for; nightwatt update does it by hand\n";
        assert!(shown.contains(part), "{shown}");
        let shown = said(&Config::default());
        for part in [
            "http: off",
            "home assistant: not told",
            "updates: not looked for, and refused by hand: no public key is known, set [update] public_keys\n",
        ] {
            assert!(shown.contains(part), "{part}: {shown}");
        }
    }
}
