//! One source of configuration: code, a file, the environment, or flags.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::ops::Range;
use std::path::{Path, PathBuf};

use toml::de::{DeTable, DeValue};

use super::knob::Knob;
use super::{KNOBS, Partial, Problem, Warning};

/// Where a value comes from, the weakest first.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    /// What the command prefers where nobody says anything.
    Preset,
    /// Code.
    Builder,
    /// A TOML file.
    File(PathBuf),
    /// An environment variable.
    Env,
    /// The command line.
    Flag,
}

/// Where one knob's value comes from, as its source spells it.
#[derive(Clone, Debug)]
pub(super) struct Origin {
    pub(super) source: Source,
    /// The value as it was given; for a secret, nothing.
    text: String,
    /// The line of the file; the variable's name.
    place: String,
}

/// By knob: where its value comes from. What is missing here has its default.
pub(super) type Origins = BTreeMap<&'static str, Origin>;

/// The variables that are read without being knobs of a node.
const OTHER_VARIABLES: [&str; 5] =
    ["TUMEN_CONFIG", "TUMEN_HTTP", "TUMEN_PROPTEST_CASES", "TUMEN_MODEL_DEPTH", "TUMEN_STORMS"];

/// What one source says, and what was wrong with it.
#[derive(Clone, Debug)]
pub struct Layer {
    /// Which source.
    pub(super) source: Source,
    /// What it says.
    pub(super) values: Partial,
    /// How it says it.
    pub(super) origins: Origins,
    /// Knobs whose values could not be read: no rule looks at them.
    pub(super) unread: Vec<&'static str>,
    /// What could not be read.
    pub(super) problems: Vec<Problem>,
    /// What seems to be meant otherwise.
    pub(super) warnings: Vec<Warning>,
    /// Strategies that the user's code brings along, by name.
    pub(super) strategies: Vec<String>,
}

impl Layer {
    /// A source that says nothing yet.
    pub fn new(source: Source) -> Self {
        Self {
            source,
            values: Partial::default(),
            origins: Origins::new(),
            unread: Vec::new(),
            problems: Vec::new(),
            warnings: Vec::new(),
            strategies: Vec::new(),
        }
    }

    /// What code says with typed values.
    pub fn builder(values: Partial) -> Self {
        Self { values, ..Self::new(Source::Builder) }
    }

    /// Adds the name of a strategy that the user's code brings along.
    pub fn bring_strategy(&mut self, name: &str) {
        self.strategies.push(name.to_owned());
    }

    /// What a TOML file says. The file is read here; that it cannot be read is a problem like any other.
    pub fn file(path: &Path) -> Self {
        match std::fs::read_to_string(path) {
            Ok(text) => Self::toml(path, &text),
            Err(why) => {
                let mut layer = Self::new(Source::File(path.to_owned()));
                layer.problems.push(Problem::new(format!("{}: cannot be read: {why}", path.display())));
                layer
            }
        }
    }

    /// What a TOML text says. `path` is how messages call it.
    pub fn toml(path: &Path, text: &str) -> Self {
        let mut layer = Self::new(Source::File(path.to_owned()));
        let place = |span: Range<usize>| {
            let line = 1 + text.get(..span.start).unwrap_or_default().matches('\n').count();
            format!("{} line {line}", path.display())
        };
        let table = match DeTable::parse(text) {
            Ok(table) => table,
            Err(why) => {
                let at = why.span().map_or_else(|| path.display().to_string(), place);
                layer.problems.push(Problem::new(format!("{at}: {}", why.message())));
                return layer;
            }
        };
        let mut entries: Vec<_> = table.get_ref().iter().collect();
        entries.sort_by_key(|(key, _)| key.span().start);
        for (key, value) in entries {
            let at = place(key.span());
            let name = key.get_ref().as_ref();
            match (find(name), texts(value.get_ref())) {
                (None, _) => {
                    layer.problems.push(Problem::new(format!("{at}: there is no knob {name}{}", hint(name))));
                }
                (Some(knob), Ok(texts)) => layer.read(knob, &texts, at),
                (Some(knob), Err(why)) => layer.refuse(knob, String::new(), at, &why),
            }
        }
        layer
    }

    /// What the environment says: `NODE_ID`, `HTTP_ADDR`, `KNOWN_NODES`, and `TUMEN_…` for every knob.
    ///
    /// A variable that is set to nothing counts as not set. Variables that begin with `TUMEN_` and are unknown
    /// give a warning only: the environment is shared with others.
    pub fn env(variables: impl IntoIterator<Item = (OsString, OsString)>) -> Self {
        let mut layer = Self::new(Source::Env);
        let mut set = BTreeMap::new();
        for (name, value) in variables {
            let Some(name) = name.to_str() else { continue };
            if !value.is_empty() {
                set.insert(name.to_owned(), value);
            }
        }
        for knob in KNOBS {
            let names = [Some(knob.variable()), knob.also.map(str::to_owned)];
            let Some((name, value)) = names.into_iter().flatten().find_map(|name| set.get_key_value(&name))
            else {
                continue;
            };
            match value.to_str() {
                Some(text) => layer.read(knob, &[text.to_owned()], name.clone()),
                None => layer.refuse(knob, String::new(), name.clone(), "is no text"),
            }
        }
        for name in set.keys().filter(|name| name.starts_with("TUMEN_")) {
            let known = KNOBS.iter().any(|knob| knob.variable() == *name);
            if !known && !OTHER_VARIABLES.contains(&name.as_str()) {
                let nearest = nearest(name, KNOBS.iter().map(Knob::variable));
                layer.warnings.push(Warning::UnknownVariable { name: name.clone(), nearest });
            }
        }
        layer
    }

    /// Says the knob `name` as text, as flags and builders do. What cannot be read becomes a problem of this source.
    ///
    /// # Panics
    /// If there is no knob of that name: [`KNOBS`] lists them.
    pub fn say(&mut self, name: &str, texts: &[String]) {
        let knob = find(name).unwrap_or_else(|| panic!("there is no knob {name:?}"));
        self.read(knob, texts, String::new());
    }

    fn read(&mut self, knob: &'static Knob, texts: &[String], place: String) {
        let text = texts.join(",");
        match self.values.read(knob.name, texts) {
            Ok(()) => {
                self.origins.insert(knob.name, self.origin(knob, text, place));
            }
            Err(why) => self.refuse(knob, text, place, &why),
        }
    }

    fn refuse(&mut self, knob: &'static Knob, text: String, place: String, why: &str) {
        let origin = self.origin(knob, text, place);
        self.problems.push(Problem::new(format!("{} {why}", origin.subject(knob))));
        self.unread.push(knob.name);
    }

    fn origin(&self, knob: &Knob, text: String, place: String) -> Origin {
        let text = if knob.secret { String::new() } else { text };
        Origin { source: self.source.clone(), text, place }
    }
}

impl Origin {
    /// A value that code gave as a value, not as text.
    pub(super) fn typed(source: Source, knob: &Knob, shown: String) -> Self {
        let text = if knob.secret { String::new() } else { shown };
        Self { source, text, place: String::new() }
    }

    /// The knob and its value, as the source spells them: `--lease 0.4s`, `TUMEN_LEASE=0.4s`.
    pub(super) fn subject(&self, knob: &Knob) -> String {
        let Self { text, place, .. } = self;
        match self.source {
            Source::Flag | Source::Preset if text.is_empty() => knob.flag(),
            Source::Flag | Source::Preset => format!("{} {text}", knob.flag()),
            Source::Env if text.is_empty() => place.clone(),
            Source::Env => format!("{place}={text}"),
            Source::File(_) if text.is_empty() => format!("{place}: {}", knob.name),
            Source::File(_) => format!("{place}: {} = {text}", knob.name),
            Source::Builder => format!("{}({text})", knob.name),
        }
    }

    /// The knob alone, as the source spells it.
    pub(super) fn spelling(&self, knob: &Knob) -> String {
        match self.source {
            Source::Env if !self.place.is_empty() => self.place.clone(),
            _ => self.source.spell(knob),
        }
    }
}

impl Source {
    /// How this source would spell the knob.
    pub(super) fn spell(&self, knob: &Knob) -> String {
        match self {
            Self::Flag | Self::Preset if !knob.secret => knob.flag(),
            Self::Flag | Self::Preset | Self::Env => knob.variable(),
            Self::File(_) | Self::Builder => knob.name.to_owned(),
        }
    }
}

/// The knob with this name.
pub(super) fn find(name: &str) -> Option<&'static Knob> {
    KNOBS.iter().find(|knob| knob.name == name)
}

fn texts(value: &DeValue<'_>) -> Result<Vec<String>, String> {
    let one = |value: &DeValue<'_>| match value {
        DeValue::String(text) => Ok(text.to_string()),
        DeValue::Integer(number) if number.radix() == 10 => Ok(number.as_str().to_owned()),
        DeValue::Float(number) => Ok(number.as_str().to_owned()),
        DeValue::Boolean(yes) => Ok(yes.to_string()),
        other => Err(format!("cannot be {} here", article(other.type_str()))),
    };
    match value {
        DeValue::Array(values) => values.iter().map(|value| one(value.get_ref())).collect(),
        value => one(value).map(|text| vec![text]),
    }
}

fn article(noun: &str) -> String {
    let an = noun.starts_with(['a', 'e', 'i', 'o', 'u']);
    format!("{} {noun}", if an { "an" } else { "a" })
}

fn hint(name: &str) -> String {
    let near = nearest(&name.replace('-', "_"), KNOBS.iter().map(|knob| knob.name.to_owned()));
    near.map_or_else(|| "; tumen node --help lists them".into(), |near| format!("; did you mean {near}?"))
}

/// The candidate with the fewest letters changed, if it is at all like `name`.
fn nearest(name: &str, candidates: impl Iterator<Item = String>) -> Option<String> {
    let name: String = name.chars().take(64).collect();
    let distances = candidates.map(|candidate| (distance(&name, &candidate), candidate));
    distances.min().filter(|(distance, _)| *distance <= name.len() / 2).map(|(_, candidate)| candidate)
}

/// Levenshtein's distance.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.bytes().enumerate() {
            let replaced = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(row[j + 1] + 1);
        }
    }
    row[b.len()]
}
