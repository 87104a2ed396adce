//! The table of knobs as a macro: one entry makes the field, its documentation, its flag, its variable and its key.
//!
//! ```text
//!                        ┌─▶ Partial   what one source says     (every field may be missing)
//! knobs! { the table } ──┼─▶ Config    what holds               (documented, with its default)
//!                        └─▶ KNOBS     for the command line, the environment and the file
//! ```

/// What the command line, the environment and the configuration file need to know about one knob.
#[derive(Debug)]
pub struct Knob {
    /// The key in the file, and the field's name.
    pub name: &'static str,
    /// The heading that it stands under.
    pub section: &'static str,
    /// What it does, its unit and its neighbours, line by line.
    pub doc: &'static [&'static str],
    /// What stands for its value in a usage line.
    pub shape: &'static str,
    /// What holds if nobody says anything.
    pub default: Option<&'static str>,
    /// The least and the greatest value.
    pub bounds: Option<(&'static str, &'static str)>,
    /// An older name of its environment variable, which `TUMEN_…` overrules.
    pub also: Option<&'static str>,
    /// Whether several values may be given.
    pub list: bool,
    /// Whether its value is never shown. Such a knob has no flag: everybody on a machine sees the flags.
    pub secret: bool,
}

impl Knob {
    /// The flag, such as `--election-timeout-max`.
    pub fn flag(&self) -> String {
        format!("--{}", self.name.replace('_', "-"))
    }

    /// The environment variable, such as `TUMEN_ELECTION_TIMEOUT_MAX`.
    ///
    /// `TUMEN_HTTP` is where the operator's commands ask; a node's own port is `TUMEN_HTTP_ADDR`, so that a shell
    /// set up for the one does not move the other.
    pub fn variable(&self) -> String {
        match self.name {
            "http" => "TUMEN_HTTP_ADDR".to_owned(),
            name => format!("TUMEN_{}", name.to_ascii_uppercase()),
        }
    }
}

/// Makes `Partial`, `Config` and `KNOBS` from the table. An entry's kind says what its field in `Config` is:
/// `plain` has a default; `maybe` becomes an `Option`; `needed` has neither, so `Config::resolve` sees to it.
macro_rules! knobs {
    (@type maybe $type:ty) => { Option<$type> };
    (@type $kind:ident $type:ty) => { $type };
    (@take plain $field:expr, $default:literal) => {
        $field.unwrap_or_else(|| Value::parse($default).expect("every default in the table can be read"))
    };
    (@take maybe $field:expr) => { $field };
    (@take needed $field:expr) => { $field.expect("what is needed was filled in or refused before") };
    (@each maybe $field:expr, $show:path) => { $field.as_ref().map($show) };
    (@each $kind:ident $field:expr, $show:path) => { Some($show(&$field)) };
    (@or) => { None };
    (@or $some:expr) => { Some($some) };

    ($(
        $section:literal {
            $(
                $(#[doc = $doc:literal])+
                $kind:ident $name:ident: $type:ty
                $(= $default:literal)?
                $([in $low:literal to $high:literal])?
                $([also $also:literal])?;
            )*
        }
    )*) => {
        /// Everything that can be set about a node, resolved and checked. See [`Config::resolve`].
        #[derive(Clone, Debug)]
        pub struct Config {
            $($(
                $(#[doc = $doc])+
                $(#[doc = ""] #[doc = concat!("Default `", $default, "`.")])?
                $(#[doc = ""] #[doc = concat!("From `", $low, "` to `", $high, "`.")])?
                pub $name: knobs!(@type $kind $type),
            )*)*
            origins: Origins,
            warnings: Vec<Warning>,
        }

        /// What one source says: any knobs, or none.
        #[derive(Clone, Debug, Default)]
        pub struct Partial {
            $($(
                #[doc = concat!("See [`Config::", stringify!($name), "`].")]
                pub $name: Option<$type>,
            )*)*
        }

        /// Every knob, in the order of the documentation.
        pub const KNOBS: &[Knob] = &[$($(
            Knob {
                name: stringify!($name),
                section: $section,
                doc: &[$($doc),+],
                shape: <$type as Value>::SHAPE,
                default: knobs!(@or $($default)?),
                bounds: knobs!(@or $(($low, $high))?),
                also: knobs!(@or $($also)?),
                list: <$type as Value>::LIST,
                secret: <$type as Value>::SECRET,
            },
        )*)*];

        impl Partial {
            /// Reads the texts that a source gives for the knob `name`.
            ///
            /// # Panics
            /// If there is no knob of that name: [`KNOBS`] lists them.
            fn read(&mut self, name: &str, texts: &[String]) -> Result<(), String> {
                match name {
                    $($( stringify!($name) => self.$name = Some(Value::parse_all(texts)?), )*)*
                    _ => panic!("there is no knob {name:?}"),
                }
                Ok(())
            }

            /// Takes what a stronger source says, telling of each value taken.
            fn overrule(&mut self, stronger: Self, mut taken: impl FnMut(&'static str, String)) {
                $($(
                    if let Some(value) = stronger.$name {
                        taken(stringify!($name), Value::show(&value));
                        self.$name = Some(value);
                    }
                )*)*
            }

            /// The knobs whose values lie outside their bounds; they fall back to their defaults.
            fn drop_out_of_bounds(&mut self) -> Vec<(&'static str, &'static str, &'static str)> {
                let mut dropped = Vec::new();
                $($(
                    $(
                        if self.$name.as_ref().is_some_and(|value| !Value::within(value, $low, $high)) {
                            self.$name = None;
                            dropped.push((stringify!($name), $low, $high));
                        }
                    )?
                )*)*
                dropped
            }

            /// Fills in the defaults.
            fn complete(self, origins: Origins, warnings: Vec<Warning>) -> Config {
                Config {
                    $($( $name: knobs!(@take $kind self.$name $(, $default)?), )*)*
                    origins,
                    warnings,
                }
            }
        }

        impl Config {
            /// The value of the knob `name` as it would be written, if it has one.
            fn shown(&self, name: &str) -> Option<String> {
                match name {
                    $($( stringify!($name) => knobs!(@each $kind self.$name, Value::show), )*)*
                    _ => None,
                }
            }
        }

        impl Serialize for Effective<'_> {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                let mut map = serializer.serialize_map(Some(KNOBS.len()))?;
                $($( map.serialize_entry(stringify!($name), &knobs!(@each $kind self.0.$name, Value::json))?; )*)*
                map.end()
            }
        }
    };
}
pub(super) use knobs;
