//! `tumen node`: one node, told by flags, environment and file; the flags are made from the table of knobs.

use std::ffi::OsString;
use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Arg, ArgAction, ArgMatches, Args, FromArgMatches};
use tracing_subscriber::EnvFilter;

use crate::children;
use crate::config::{Config, ConfigErrors, KNOBS, Knob, Layer, LogFormat, Source};
use crate::node::Node;

/// Where `tumen node` serves HTTP if it is told nothing: where the operator's commands ask if they are told nothing.
const HTTP_PRESET: &str = "127.0.0.1:8080";

/// A flag that is for the program's own children, and no knob.
const END_WITH_STDIN: &str = "end_with_stdin";

/// What `tumen node` is told by flags. The texts are read together with the other sources, so that all that is wrong is
/// listed at once.
#[derive(Clone, Debug)]
pub(super) struct NodeArgs {
    flags: Box<Layer>,
    file: Option<PathBuf>,
    /// Whether the process ends with its standard input: for a node that another process started for itself.
    end_with_stdin: bool,
}

impl NodeArgs {
    /// Does what must be done before anything else.
    pub(super) fn begin(self) -> Self {
        if self.end_with_stdin
            && let Err(why) = children::end_with_stdin()
        {
            super::complain(&format!(
                "nobody watches whether the process that started this one is there: {why}"
            ));
        }
        self
    }

    /// The configuration from all sources.
    ///
    /// # Errors
    /// All that is wrong in all of them.
    pub(super) fn config(
        self,
        environment: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Result<Config, ConfigErrors> {
        let mut preset = Layer::new(Source::Preset);
        preset.say("http", &[HTTP_PRESET.to_owned()]);
        let file = self.file.map(|path| Layer::file(&path));
        Config::resolve(
            [Some(preset), file, Some(Layer::env(environment)), Some(*self.flags)].into_iter().flatten(),
        )
    }
}

/// Runs a node until it is told to stop.
pub(super) async fn run_node(config: Config) -> ExitCode {
    init_tracing(&config);
    for warning in config.warnings() {
        tracing::warn!("{warning}");
    }
    // Two values of one key that sides of a cluster wrote could not be made one.
    let available = config.consistency.is_available();
    let builder = Node::configured(config).echo();
    let node = match if available { builder } else { builder.kv() }.start().await {
        Ok(node) => node,
        Err(error) => {
            super::complain(&error.to_string());
            return ExitCode::FAILURE;
        }
    };
    let shown = node.clone();
    let ready = tokio::spawn(async move {
        if shown.ready().await.is_ok() {
            say_ready(&shown);
        }
    });
    let ended = node.run_until_signal().await;
    ready.abort();
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            super::complain(&error.to_string());
            ExitCode::FAILURE
        }
    }
}

/// The one line on stdout: for people, and for programs that wait for it.
#[expect(clippy::print_stdout, reason = "what stdout is for")]
fn say_ready(node: &Node) {
    let http = node.http_address().map(|address| format!(", http://{address}")).unwrap_or_default();
    println!("{} is ready: cluster {}, {}{http}", node.name(), node.config().cluster, node.address());
}

/// Log lines go to stderr: stdout is for the one line that says that the node is ready.
fn init_tracing(config: &Config) {
    // The filter was checked when the configuration was resolved.
    let filter = EnvFilter::builder().parse_lossy(&config.log_filter);
    let lines = tracing_subscriber::fmt().with_writer(std::io::stderr).with_env_filter(filter);
    let begun = match config.log {
        LogFormat::Json => lines.json().flatten_event(true).try_init(),
        LogFormat::Text => {
            let colours = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
            lines.with_ansi(colours).try_init()
        }
    };
    if let Err(why) = begun {
        super::complain(&format!("log lines go where they went before: {why}"));
    }
}

impl Args for NodeArgs {
    fn augment_args(command: clap::Command) -> clap::Command {
        let config = Arg::new("config")
            .long("config")
            .value_name("FILE")
            .env("TUMEN_CONFIG")
            .value_parser(clap::value_parser!(PathBuf))
            .help("A TOML file with any of the knobs below, named as the flags with _ for -");
        let flags = KNOBS.iter().filter(|knob| !knob.secret).map(arg);
        let end_with_stdin = Arg::new(END_WITH_STDIN)
            .long("end-with-stdin")
            .action(ArgAction::SetTrue)
            .hide(true)
            .help("End at once when standard input ends, as it does when the process that started this one is gone");
        command.arg(config).args(flags).arg(end_with_stdin).after_help(
            "Flags overrule the environment, which overrules the file. -h is shorter than --help.",
        )
    }

    fn augment_args_for_update(command: clap::Command) -> clap::Command {
        Self::augment_args(command)
    }
}

fn arg(knob: &Knob) -> Arg {
    let lines: Vec<&str> = knob.doc.iter().map(|line| line.trim()).collect();
    let doc = lines.join(" ").replace('`', "");
    let mut notes = vec![format!("env: {}", knob.variable())];
    notes.extend(knob.also.map(|also| format!("or {also}")));
    let mut brackets = format!(" [{}]", notes.join(" "));
    let default = if knob.name == "http" { Some(HTTP_PRESET) } else { knob.default };
    if let Some(default) = default.filter(|default| !default.is_empty()) {
        brackets.push_str(&format!(" [default: {default}]"));
    }
    if let Some((low, high)) = knob.bounds {
        brackets.push_str(&format!(" [{low} to {high}]"));
    }
    let first = doc.split_inclusive(". ").next().unwrap_or_default().trim_end().to_owned();
    Arg::new(knob.name)
        .long(knob.name.replace('_', "-"))
        .value_name(knob.shape)
        .action(if knob.list { ArgAction::Append } else { ArgAction::Set })
        .allow_hyphen_values(true)
        .help_heading(knob.section)
        .help(first + &brackets)
        .long_help(doc + &brackets)
}

impl FromArgMatches for NodeArgs {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut flags = Layer::new(Source::Flag);
        for knob in KNOBS.iter().filter(|knob| !knob.secret) {
            if let Some(texts) = matches.get_many::<String>(knob.name) {
                flags.say(knob.name, &texts.cloned().collect::<Vec<_>>());
            }
        }
        let file = matches.get_one("config").cloned();
        Ok(Self { flags: Box::new(flags), file, end_with_stdin: matches.get_flag(END_WITH_STDIN) })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}
