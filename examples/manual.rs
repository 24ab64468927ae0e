//! Writes the man pages and shell completions of the command line into a folder: `cargo run --example manual -- FOLDER`.

use std::error::Error;
use std::path::PathBuf;

use clap::CommandFactory;
use clap_complete::{Shell, generate_to};

fn main() -> Result<(), Box<dyn Error>> {
    let folder = std::env::args_os().nth(1).map(PathBuf::from);
    let folder = folder.ok_or("usage: manual FOLDER")?;
    for name in ["man", "completions"] {
        std::fs::create_dir_all(folder.join(name))?;
    }
    let command = nightwatt::cli::Cli::command();
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        generate_to(
            shell,
            &mut command.clone(),
            "nightwatt",
            folder.join("completions"),
        )?;
    }
    clap_mangen::generate_to(command.disable_help_subcommand(true), folder.join("man"))?;
    Ok(())
}
