//! Names of a new project, checked against the rules of Rust, Kubernetes and Helm before anything is written.

/// Names that take the places of those of the project in `examples/website`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Names {
    /// Name of the project: package, program, chart and cluster.
    pub(super) project: String,
    /// API group of the resource.
    pub(super) group: String,
    /// Kind of the resource, like `ShopOrder`.
    pub(super) kind: String,
    /// Plural of the kind in the API, like `shoporders`.
    plural: String,
    /// The kind as a Rust module, like `shop_order`.
    pub(super) module: String,
}

/// Longest name of a Helm release.
const PROJECT_MOST: usize = 53;
/// Longest label of a DNS name.
const LABEL_MOST: usize = 63;
/// Longest name of an API group.
const GROUP_MOST: usize = 253;

/// Keywords of Rust 2024, and crates that a package cannot be called after.
const RESERVED: &[&str] = &[
    "abstract",
    "alloc",
    "as",
    "async",
    "await",
    "become",
    "box",
    "break",
    "const",
    "continue",
    "core",
    "crate",
    "do",
    "dyn",
    "else",
    "enum",
    "extern",
    "false",
    "final",
    "fn",
    "for",
    "gen",
    "if",
    "impl",
    "in",
    "let",
    "loop",
    "macro",
    "match",
    "mod",
    "move",
    "mut",
    "override",
    "priv",
    "proc_macro",
    "pub",
    "ref",
    "return",
    "self",
    "static",
    "std",
    "struct",
    "super",
    "test",
    "trait",
    "true",
    "try",
    "type",
    "typeof",
    "union",
    "unsafe",
    "unsized",
    "use",
    "virtual",
    "where",
    "while",
    "yield",
];

/// Types that the source of a project names already.
const TAKEN: &[&str] = &[
    "Action",
    "Api",
    "App",
    "Arc",
    "BTreeMap",
    "Client",
    "Condition",
    "ConfigMap",
    "Context",
    "Controller",
    "CustomResource",
    "CustomResourceDefinition",
    "CustomResourceExt",
    "Deployment",
    "Deserialize",
    "Duration",
    "Election",
    "ElectionRef",
    "Err",
    "EventType",
    "ExitCode",
    "Finalize",
    "Holds",
    "Host",
    "JsonSchema",
    "None",
    "ObjectKey",
    "Ok",
    "Operator",
    "Option",
    "PodIdentity",
    "ReconcileError",
    "Reconciler",
    "Resource",
    "ResourceExt",
    "Result",
    "Scope",
    "Self",
    "Serialize",
    "Service",
    "Sharded",
    "Some",
    "String",
    "TcpStream",
    "Vec",
    "WriteError",
];

/// Modules of a project beside that of its resource.
const MODULES: &[&str] = &["checks", "main", "lib"];

impl Names {
    /// Checks the names.
    ///
    /// # Errors
    ///
    /// A text with the name, the rule that it breaks, and an example.
    pub(super) fn new(project: &str, group: &str, kind: &str) -> Result<Self, String> {
        is_project(project).map_err(|rule| format!("the name {project:?} {rule}"))?;
        is_group(group).map_err(|rule| format!("--group {group:?} {rule}"))?;
        is_kind(kind).map_err(|rule| format!("--kind {kind:?} {rule}"))?;
        Ok(Self {
            project: project.to_owned(),
            group: group.to_owned(),
            kind: kind.to_owned(),
            plural: plural_of(&kind.to_lowercase()),
            module: snake(kind),
        })
    }

    /// The text of the project `website-operator` as that of the project with these names.
    pub(super) fn in_place_of_website(&self, text: &str) -> String {
        let krate = self.project.replace('-', "_");
        let kebab = self.module.replace('_', "-");
        let kind_plural = plural_of(&self.kind);
        let module_plural = plural_of(&self.module);
        // The longer names come first, since they contain the shorter ones.
        let pairs: [(&str, &str); 13] = [
            ("website-operator", &self.project),
            ("website_operator", &krate),
            ("example.bellwether.dev", &self.group),
            ("Websites", &kind_plural),
            ("Website", &self.kind),
            ("websites", &self.plural),
            ("website-", &format!("{kebab}-")),
            ("website::", &format!("{}::", self.module)),
            ("website;", &format!("{};", self.module)),
            ("website.rs", &format!("{}.rs", self.module)),
            ("website", &self.kind.to_lowercase()),
            ("sites", &module_plural),
            ("site", &self.module),
        ];
        replaced(text, &pairs)
    }
}

/// The text with each name replaced that stands at the beginning of a word: `composite` keeps its `site`.
fn replaced(text: &str, pairs: &[(&str, &str)]) -> String {
    let mut done = String::with_capacity(text.len());
    let mut rest = text;
    let mut before = ' ';
    while let Some(first) = rest.chars().next() {
        let found = (!before.is_ascii_alphanumeric())
            .then(|| pairs.iter().find(|(from, _)| starts_with_word(rest, from)))
            .flatten();
        if let Some((from, to)) = found {
            done.push_str(to);
            rest = &rest[from.len()..];
            before = from.chars().next_back().unwrap_or(' ');
        } else {
            done.push(first);
            rest = &rest[first.len_utf8()..];
            before = first;
        }
    }
    done
}

/// Whether a text begins with `word`, and the word ends there. The words that begin with a capital letter may go on:
/// `WebsiteSpec` contains `Website`.
fn starts_with_word(text: &str, word: &str) -> bool {
    text.strip_prefix(word).is_some_and(|rest| {
        word.starts_with(char::is_uppercase)
            || !rest.starts_with(|next: char| next.is_ascii_alphanumeric())
            || word.ends_with(|last: char| !last.is_ascii_alphanumeric())
    })
}

fn is_project(name: &str) -> Result<(), String> {
    let fits = |it: char| it.is_ascii_lowercase() || it.is_ascii_digit() || it == '-';
    if !name.starts_with(|first: char| first.is_ascii_lowercase())
        || !name.chars().all(fits)
        || name.ends_with('-')
    {
        return Err("is not a name for a package, a chart and a cluster: write lower-case letters, digits and \
                    dashes, from a letter to a letter or digit, like shop"
            .into());
    }
    if name.len() > PROJECT_MOST {
        return Err(format!(
            "has {} characters, and a Helm release has {PROJECT_MOST} at most",
            name.len()
        ));
    }
    if RESERVED.contains(&&*name.replace('-', "_")) || name == "bellwether" {
        return Err("is reserved by Rust or by this library: choose another, like shop".into());
    }
    Ok(())
}

fn is_group(group: &str) -> Result<(), String> {
    let is_label = |label: &str| {
        let fits = |it: char| it.is_ascii_lowercase() || it.is_ascii_digit() || it == '-';
        !label.is_empty()
            && label.len() <= LABEL_MOST
            && label.chars().all(fits)
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    if !group.contains('.') || !group.split('.').all(is_label) || group.len() > GROUP_MOST {
        return Err("is not an API group: write a domain name of yours in lower case, like \
                    shop.example.com"
            .into());
    }
    let is_below = |domain: &str| group == domain || group.ends_with(&format!(".{domain}"));
    if is_below("k8s.io") || is_below("kubernetes.io") {
        return Err("belongs to the Kubernetes project, and the API server refuses it without an approval: \
                    take a domain name of yours, like shop.example.com"
            .into());
    }
    if is_below("bellwether.dev") {
        return Err(
            "belongs to this library: take a domain name of yours, like shop.example.com".into()
        );
    }
    Ok(())
}

fn is_kind(kind: &str) -> Result<(), String> {
    if !kind.starts_with(|first: char| first.is_ascii_uppercase())
        || !kind.chars().all(|it| it.is_ascii_alphanumeric())
        || kind.len() > LABEL_MOST - "es".len()
    {
        return Err(
            "is not a kind: write letters and digits from a capital letter on, at most 61, like \
                    ShopOrder"
                .into(),
        );
    }
    let is_own = |suffix: &str| kind.strip_suffix(suffix).is_some_and(|it| TAKEN.contains(&it));
    if TAKEN.contains(&kind) || is_own("Spec") || is_own("Status") {
        return Err("is a type that the source of the project uses already: choose another, like \
                    ShopOrder"
            .into());
    }
    let module = snake(kind);
    if RESERVED.contains(&&*module) || MODULES.contains(&&*module) {
        return Err(format!(
            "gives a module {module:?}, which Rust or the project reserves: choose another, like ShopOrder"
        ));
    }
    Ok(())
}

/// The kind as a name of a Rust module: `ShopOrder` as `shop_order`, `HTTPRoute` as `http_route`.
fn snake(kind: &str) -> String {
    let letters: Vec<char> = kind.chars().collect();
    let mut module = String::new();
    for (at, letter) in letters.iter().enumerate() {
        let before = at.checked_sub(1).map(|at| letters[at]);
        let begins = letter.is_ascii_uppercase()
            && before.is_some_and(|before| {
                !before.is_ascii_uppercase()
                    || letters.get(at + 1).is_some_and(char::is_ascii_lowercase)
            });
        if begins {
            module.push('_');
        }
        module.push(letter.to_ascii_lowercase());
    }
    module
}

/// The plural of an English noun by its ending. The source of the project names it, so that a person can change it.
fn plural_of(name: &str) -> String {
    let is_vowel = |it: Option<char>| it.is_some_and(|it| "aeiou".contains(it));
    let before_last = name.chars().rev().nth(1).map(|it| it.to_ascii_lowercase());
    if name.ends_with('y') && !is_vowel(before_last) {
        return format!("{}ies", &name[..name.len() - 1]);
    }
    if ["s", "x", "z", "ch", "sh"].iter().any(|end| name.ends_with(end)) {
        return format!("{name}es");
    }
    format!("{name}s")
}

#[cfg(test)]
mod tests;
