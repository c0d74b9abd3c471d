//! Command `print crds`: the custom resource definitions, for kubectl.

use clap::{Args, ValueEnum};

use super::{
    exit::{Exit, Failure},
    output::{self, Layout},
};
use crate::k8s::crd::{self, CustomResourceDefinition};

/// Prints the custom resource definitions, for `kubectl apply --server-side -f -`
#[derive(Args, Debug)]
pub(crate) struct CrdsArgs {
    /// Only this one, by its kind, plural or short name (default: all)
    #[arg(value_name = "KIND")]
    kind: Option<String>,

    /// Format of the output
    #[arg(
        long,
        short = 'o',
        value_name = "FORMAT",
        env = "BELLWETHER_CRDS_OUTPUT",
        value_enum,
        default_value_t
    )]
    output: Document,
}

/// The form of a document that kubectl reads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Document {
    /// A YAML document for each definition.
    #[default]
    Yaml,
    /// A single JSON document: the definition, or a list of definitions.
    Json,
}

/// Prints those of the program's custom resource definitions that the arguments choose.
///
/// # Errors
///
/// A [`Failure`] if the program has no such kind, or if standard output is closed.
pub(crate) fn crds(
    args: &CrdsArgs,
    mut definitions: Vec<CustomResourceDefinition>,
) -> Result<(), Failure> {
    if let Some(kind) = &args.kind {
        let known: Vec<_> = definitions.iter().map(|it| it.spec.names.kind.clone()).collect();
        definitions.retain(|definition| is_called(definition, kind));
        if definitions.is_empty() {
            let known = known.join(" or ");
            return Err(Failure::new(Exit::Usage, format!("there is no resource {kind:?}"))
                .try_this(format!("name {known}, or none for all")));
        }
    }
    match args.output {
        Document::Yaml => output::print(&crd::yaml(&definitions)),
        Document::Json => output::print_json(&crd::json(&definitions), Layout::Pretty),
    }
}

/// Whether kubectl accepts this name for the kind.
fn is_called(definition: &CustomResourceDefinition, name: &str) -> bool {
    let names = &definition.spec.names;
    let short = names.short_names.iter().flatten();
    let others = [&names.kind, &names.plural].into_iter().chain(&names.singular).chain(short);
    others.chain(&definition.metadata.name).any(|it| it.eq_ignore_ascii_case(name))
}
