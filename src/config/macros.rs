//! The one definition of a key: a line in [`section!`] makes the field of the struct, its default, how it is read, its row
//! in the reference and its part of the JSON Schema. A new key is one more line.

/// Makes a struct from the keys of a section:
///
/// ```text
/// /// For people: the reference and the schema show this text too.
/// pub FIELD: TYPE = KIND, default "TEXT", example "YAML";
/// ```
///
/// `KIND` is a [`Kind`](super::section::Kind). Without a default, `TYPE` is an `Option`, or the key is `required
/// "EXAMPLE"`. `only [KEY, …]`: it has an effect beside one of these keys only. `as "KEY"`: the field has another name.
/// The section's own brackets hold its name and place; `short`: the keys that a plain text stands for; `among OTHER`: the
/// keys of that section stand beside these. Fields behind `with` are no keys; `rules` fills them in.
macro_rules! section {
    (
        $(#[doc = $doc:literal])+
        $vis:vis struct $name:ident($section:literal in $at:literal $(, short $($short:literal)+)? $(, among $more:ty)?)
        $(derive($($derive:path),+))?
        {
            $(
                $(#[doc = $key_doc:literal])+
                $field_vis:vis $field:ident $(as $key:literal)? : $type:ty = $kind:ident $(($($arg:expr),+))?
                $(, default $default:literal)? $(, only $only:tt)? $(, example $example:literal)? $(, required $required:literal)?;
            )+
        }
        $(with { $($(#[doc = $extra_doc:literal])+ pub $extra:ident: $extra_type:ty,)+ })?
    ) => {
        $(#[doc = $doc])+
        #[derive(Clone, PartialEq $($(, $derive)+)?)]
        $vis struct $name {
            $($(#[doc = $key_doc])+ $field_vis $field: $type,)+
            $($($(#[doc = $extra_doc])+ pub $extra: $extra_type,)+)?
        }

        impl Keys for $name {
            const SECTION: &'static Section = &Section {
                name: $section,
                at: $at,
                doc: concat!($($doc),+),
                short: &[$($($short),+)?],
                keys: &[$(Key {
                    name: section!(@name $field $($key)?),
                    kind: Kind::$kind $(($($arg),+))?,
                    default: section!(@option $($default)?),
                    required: !concat!($($required)?).is_empty(),
                    example: concat!($($example)? $($required)?),
                    only: section!(@only $($only)?),
                    doc: concat!($($key_doc),+),
                }),+],
                more: section!(@option $(<$more as Keys>::SECTION)?),
            };

            fn read(reader: &mut Reader<'_>) -> Self {
                // For what is wrong in them; `rules` takes their values.
                $(let _ = <$more as Keys>::read(reader);)?
                Self {
                    $($field: reader.field(section!(@name $field $($key)?)),)+
                    $($($extra: Default::default(),)+)?
                }
            }
        }

        impl Default for $name {
            fn default() -> Self {
                Self::from_node(None, "", &mut Report::new(Self::SECTION))
            }
        }

        impl Field for $name {
            fn read(entry: &mut Entry<'_>) -> Option<Self> {
                entry.section()
            }
            fn absent() -> Self {
                Self::default()
            }
        }

        // Not derived, because a secret may not reach a log.
        impl std::fmt::Debug for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                let mut out = f.debug_struct(stringify!($name));
                $(match Kind::$kind $(($($arg),+))? {
                    Kind::Secret => out.field(stringify!($field), &"***"),
                    _ => out.field(stringify!($field), &self.$field),
                };)+
                $($(out.field(stringify!($extra), &self.$extra);)+)?
                out.finish()
            }
        }
    };
    (@name $field:ident $key:literal) => { $key };
    (@name $field:ident) => { stringify!($field) };
    (@option) => { None };
    (@option $value:expr) => { Some($value) };
    (@only) => { &[] };
    (@only $keys:tt) => { &$keys };
}

/// Makes an enum whose variants are the words of a key; the first one is the default.
macro_rules! words {
    (
        $(#[doc = $doc:literal])+
        pub enum $name:ident {
            $(#[doc = $first_doc:literal])+ $first:ident = $first_word:literal,
            $($(#[doc = $word_doc:literal])+ $variant:ident = $word:literal,)+
        }
    ) => {
        $(#[doc = $doc])+
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
        pub enum $name {
            $(#[doc = $first_doc])+ #[default] #[serde(rename = $first_word)] $first,
            $($(#[doc = $word_doc])+ #[serde(rename = $word)] $variant,)+
        }

        impl $name {
            /// As the configuration writes them, the default first.
            pub const WORDS: &'static [&'static str] = &[$first_word, $($word),+];

            const ALL: &'static [Self] = &[Self::$first, $(Self::$variant),+];

            /// As the configuration writes it.
            pub fn as_str(self) -> &'static str {
                match self {
                    Self::$first => $first_word,
                    $(Self::$variant => $word,)+
                }
            }
        }

        scalars! {
            $name: |text, _, _| value::word(text, Self::WORDS, Self::ALL), Self::default();
        }
    };
}

/// Makes types readable whose value is one text: how it is parsed, and what holds where there is none.
macro_rules! scalars {
    ($($($type:ty),+: $parse:expr, $absent:expr;)+) => {$($(
        impl Field for $type {
            fn read(entry: &mut Entry<'_>) -> Option<Self> {
                entry.scalar($parse)
            }
            fn default_of(key: &Key) -> Option<Self> {
                let parse: Parse<Self> = $parse;
                parse(key.default?, std::path::Path::new(""), key.kind).ok()
            }
            fn absent() -> Self {
                $absent
            }
        }
    )+)+};
}

pub(crate) use {scalars, section, words};
