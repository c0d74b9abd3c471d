//! Queries in `PromQL` that cannot be wrong in the ways in which dashboards are: a metric that is not
//! narrowed to what the reader chose, a counter that is not a rate, a rate over a fixed span.

use std::fmt;

/// The variables that every series is narrowed by, with what readers call them, outermost first.
pub(super) const VARIABLES: [(&str, &str); 4] = [
    ("cluster", "Kubernetes cluster"),
    ("namespace", "Namespace"),
    ("job", "Job"),
    ("instance", "Node"),
];

/// The matcher of a variable.
pub(super) fn chosen(variable: &str) -> String {
    format!("{variable}=~\"${variable}\"")
}

/// The series of one metric at the targets that the reader chose.
#[derive(Clone, Debug)]
pub struct Series {
    name: String,
    matchers: Vec<String>,
}

impl Series {
    /// All of them.
    pub fn of(name: &str) -> Self {
        let matchers = VARIABLES.iter().map(|(variable, _)| chosen(variable)).collect();
        Self { name: name.to_owned(), matchers }
    }

    /// Only those with this value of a label.
    #[must_use]
    pub fn with(mut self, label: &str, value: &str) -> Self {
        self.matchers.push(format!("{label}=\"{value}\""));
        self
    }

    /// Only those without this value of a label.
    #[must_use]
    pub fn without(mut self, label: &str, value: &str) -> Self {
        self.matchers.push(format!("{label}!=\"{value}\""));
        self
    }

    /// What a gauge says.
    pub fn now(&self) -> Query {
        Query(self.to_string())
    }

    /// How much a counter grows in a second.
    pub fn rate(&self) -> Query {
        Query(format!("rate({self}[$__rate_interval])"))
    }

    /// How much a counter has grown over a span such as `1h`.
    pub fn increase(&self, span: &str) -> Query {
        Query(format!("increase({self}[{span}])"))
    }

    /// How often a gauge above zero has changed over a span such as `1h`, as seen every 15 s. The zero of
    /// what has just begun is no change.
    pub fn changes(&self, span: &str) -> Query {
        Query(format!("changes(({self} > 0)[{span}:15s])"))
    }

    /// The buckets of a histogram as they fill, for a heatmap.
    pub fn buckets(&self) -> Query {
        Query(format!("sum by (le) (increase({}[$__rate_interval]))", self.bucket()))
    }

    /// A quantile of a histogram, over all series that agree in the labels.
    pub fn quantile(&self, quantile: f64, by: &[&str]) -> Query {
        let by = [&["le"], by].concat().join(", ");
        let rate = format!("rate({}[$__rate_interval])", self.bucket());
        Query(format!("histogram_quantile({quantile}, sum by ({by}) ({rate}))"))
    }

    fn bucket(&self) -> Self {
        Self { name: format!("{}_bucket", self.name), matchers: self.matchers.clone() }
    }
}

impl fmt::Display for Series {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{{{}}}", self.name, self.matchers.join(", "))
    }
}

/// A query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Query(String);

impl Query {
    /// What no other method says. Series in it are best written by [`Series`].
    pub fn raw(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The query as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The sum of all.
    #[must_use]
    pub fn sum(&self) -> Self {
        Self(format!("sum({self})"))
    }

    /// The sums of those that agree in the labels.
    #[must_use]
    pub fn sum_by(&self, labels: &[&str]) -> Self {
        self.by("sum", labels)
    }

    /// The highest.
    #[must_use]
    pub fn max(&self) -> Self {
        Self(format!("max({self})"))
    }

    /// The highest of those that agree in the labels.
    #[must_use]
    pub fn max_by(&self, labels: &[&str]) -> Self {
        self.by("max", labels)
    }

    /// The lowest.
    #[must_use]
    pub fn min(&self) -> Self {
        Self(format!("min({self})"))
    }

    /// The lowest of those that agree in the labels.
    #[must_use]
    pub fn min_by(&self, labels: &[&str]) -> Self {
        self.by("min", labels)
    }

    fn by(&self, what: &str, labels: &[&str]) -> Self {
        Self(format!("{what} by ({}) ({self})", labels.join(", ")))
    }
}

impl fmt::Display for Query {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
