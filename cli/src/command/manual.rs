//! `dunlin completions` and `dunlin manual`: what a shell and `man` know of the commands, made of the commands themselves.
//!
//! Pure but for printing and for the folder that is named.

use std::path::{Path, PathBuf};

use clap::{Args, Command};
use clap_complete::Shell;
use clap_mangen::Man;
use dunlin_kit::atomic_file;

use super::CommandError;
use crate::{print, workspace};

/// Arguments of `dunlin completions`.
#[derive(Debug, Args)]
#[command(after_help = "\
Bash: dunlin completions bash > ~/.local/share/bash-completion/completions/dunlin. \
Zsh: dunlin completions zsh > a file `_dunlin` in a folder of $fpath. \
Fish: dunlin completions fish > ~/.config/fish/completions/dunlin.fish")]
pub struct CompletionsArguments {
    /// The shell.
    shell: Shell,
}

/// Arguments of `dunlin manual`.
#[derive(Debug, Args)]
pub struct ManualArguments {
    /// Folder to write a page for each command to, as in /usr/local/share/man/man1; made where it is missing.
    #[arg(long, value_name = "DIR")]
    to: PathBuf,
}

/// Prints what completes the commands.
pub fn complete(arguments: &CompletionsArguments, mut program: Command) {
    let name = program.get_name().to_owned();
    let mut text = Vec::new();
    clap_complete::generate(arguments.shell, &mut program, name, &mut text);
    print::line(String::from_utf8_lossy(&text).trim_end());
}

/// Writes a page for each command.
///
/// *Errors*: those of the file system.
pub fn write(arguments: &ManualArguments, program: Command) -> Result<(), CommandError> {
    workspace::make_folder(&arguments.to)?;
    let mut program = program.disable_help_subcommand(true);
    // Gives each command its whole name.
    program.build();
    let pages = write_pages(&arguments.to, &program)?;
    print::line(&format!("wrote {pages} pages to `{}`", arguments.to.display()));
    Ok(())
}

fn write_pages(folder: &Path, command: &Command) -> Result<usize, CommandError> {
    let name = command.get_display_name().unwrap_or_else(|| command.get_name());
    let path = folder.join(format!("{name}.1"));
    let failed = |e| CommandError::failed(format!("cannot write `{}`", path.display()), e);
    let mut page = Vec::new();
    Man::new(command.clone()).render(&mut page).map_err(failed)?;
    atomic_file::write_from(&path, &mut page.as_slice(), 0o644).map_err(failed)?;
    let mut pages = 1;
    for inner in command.get_subcommands().filter(|inner| !inner.is_hide_set()) {
        pages += write_pages(folder, inner)?;
    }
    Ok(pages)
}
