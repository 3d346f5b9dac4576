//! A rank's end of the control socket.

use std::env;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::process;
use std::sync::mpsc::{self, Receiver};
use std::thread;

use anyhow::{Context, Result};

use crate::bench::protocol::{CONTROL_VARIABLE, Reply};

/// The exit code of a rank whose control socket closed.
const ORPHANED: i32 = 3;

/// Commands come in, answers go out; its end is the process's end.
#[derive(Debug)]
pub struct Control {
    stream: UnixStream,
    commands: Receiver<String>,
}

impl Control {
    /// Connects to the socket that the environment names.
    ///
    /// # Errors
    /// The variable is missing or nobody listens.
    pub fn connect() -> Result<Self> {
        let path = env::var_os(CONTROL_VARIABLE)
            .with_context(|| format!("{CONTROL_VARIABLE} is not set"))?;
        let stream = UnixStream::connect(&path)
            .with_context(|| format!("nobody listens on {}", path.display()))?;
        let (sender, commands) = mpsc::channel();
        let lines = BufReader::new(stream.try_clone()?).lines();
        // A thread of its own, so that the end is noticed also inside a collective that hangs.
        thread::Builder::new().name("bench-control".into()).spawn(move || {
            for line in lines.map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
            process::exit(ORPHANED);
        })?;
        Ok(Self { stream, commands })
    }

    /// The next command; `None` when the driver said `quit`.
    ///
    /// # Errors
    /// The reader is gone.
    pub fn next(&self) -> Result<Option<String>> {
        let line = self.commands.recv().context("the control socket's reader is gone")?;
        Ok((line != "quit").then_some(line))
    }

    /// Answers.
    ///
    /// # Errors
    /// The driver is gone.
    pub fn reply(&self, reply: &Reply) -> Result<()> {
        let line = serde_json::to_string(reply)? + "\n";
        (&self.stream).write_all(line.as_bytes()).context("the driver is gone")
    }

    /// Answers with the result of a command.
    ///
    /// # Errors
    /// The driver is gone; an error of the command itself is an answer.
    pub fn answer(&self, result: Result<Reply>) -> Result<()> {
        self.reply(&result.unwrap_or_else(|err| Reply::Error(format!("{err:#}"))))
    }
}
