//! `home-assistant remove`: takes back what was made in Home Assistant, with or without a daemon.

use clap::{Args, Subcommand};

use super::run::credentials;
use super::{Exit, Failure, Outcome, block_on};
use crate::config::Config;
use crate::mqtt::discovery::Names;
use crate::mqtt::home_assistant::Session;
use crate::mqtt::link::LinkOptions;

const LIMIT: std::time::Duration = std::time::Duration::from_secs(60);

#[derive(Args)]
pub(super) struct HomeAssistantArgs {
    #[command(subcommand)]
    verb: HomeAssistantVerb,
}

#[derive(Subcommand)]
enum HomeAssistantVerb {
    /// Empty every retained topic that was made for it, also of devices that are gone
    Remove,
}

pub(super) fn home_assistant(config: &Config, args: HomeAssistantArgs) -> Outcome {
    let HomeAssistantVerb::Remove = args.verb;
    if config.home_assistant.enabled {
        let text = "set [home_assistant] enabled = false first (and reload a running daemon, which \
                    then removes everything itself); it would be made again";
        return Err(Failure(Exit::Usage, text.into()));
    }
    let options = LinkOptions::new(&config.mqtt, "-ha-remove", credentials().as_deref())?;
    let names = Names {
        discovery_prefix: config.home_assistant.discovery_prefix.clone(),
        topic_prefix: config.mqtt.topic_prefix.clone(),
    };
    let removed = block_on(async {
        let removing = Session::new(&options, names).remove_all();
        match tokio::time::timeout(LIMIT, removing).await {
            Ok(removed) => Ok(removed?),
            Err(_) => Err(Failure(Exit::Failed, "the broker took too long".into())),
        }
    })?;
    println!("{removed} devices removed from Home Assistant");
    Ok(Exit::Done)
}
