//! Writes the man pages and shell completions of the command line into a folder: `cargo run --example manual -- FOLDER`.

use std::error::Error;
use std::path::PathBuf;

use clap::{Command, CommandFactory};
use clap_complete::{Shell, generate_to};

fn main() -> Result<(), Box<dyn Error>> {
    let folder = std::env::args_os().nth(1).map(PathBuf::from);
    let folder = folder.ok_or("usage: manual FOLDER")?;
    for name in ["man", "completions"] {
        std::fs::create_dir_all(folder.join(name))?;
    }
    let command = shipped();
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        let folder = folder.join("completions");
        generate_to(shell, &mut command.clone(), "nightwatt", folder)?;
    }
    clap_mangen::generate_to(command.disable_help_subcommand(true), folder.join("man"))?;
    Ok(())
}

/// The command line of the shipped binary: without the demo and without what only the daemon calls.
fn shipped() -> Command {
    let built = nightwatt::cli::Cli::command();
    let about = built.get_about().cloned().unwrap_or_default();
    Command::new("nightwatt")
        .version(env!("CARGO_PKG_VERSION"))
        .about(about)
        .subcommand_required(true)
        .args(built.get_arguments().cloned())
        .subcommands(
            built
                .get_subcommands()
                .filter(|c| !c.is_hide_set() && c.get_name() != "demo")
                .cloned(),
        )
}
