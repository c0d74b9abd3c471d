//! Queries in `PromQL` that exclude common mistakes of dashboards: a metric that is not limited to the
//! reader's choice, a counter without a rate, a rate over a fixed span.

use std::fmt;

/// Variables that limit every series, with their labels for readers, outermost first.
pub(super) const VARIABLES: [(&str, &str); 4] = [
    ("cluster", "Kubernetes cluster"),
    ("namespace", "Namespace"),
    ("job", "Job"),
    ("instance", "Node"),
];

/// Label matcher of a variable.
pub(super) fn chosen(variable: &str) -> String {
    format!("{variable}=~\"${variable}\"")
}

/// Series of one metric at the targets that the reader chose.
#[derive(Clone, Debug)]
pub struct Series {
    name: String,
    matchers: Vec<String>,
}

impl Series {
    /// All series of a metric at the chosen targets.
    pub fn of(name: &str) -> Self {
        let matchers = VARIABLES.iter().map(|(variable, _)| chosen(variable)).collect();
        Self { name: name.to_owned(), matchers }
    }

    /// Limits to the series with this value of a label.
    #[must_use]
    pub fn with(mut self, label: &str, value: &str) -> Self {
        self.matchers.push(format!("{label}=\"{value}\""));
        self
    }

    /// Limits to the series without this value of a label.
    #[must_use]
    pub fn without(mut self, label: &str, value: &str) -> Self {
        self.matchers.push(format!("{label}!=\"{value}\""));
        self
    }

    /// Current value of a gauge.
    pub fn now(&self) -> Query {
        Query(self.to_string())
    }

    /// Increase of a counter per second.
    pub fn rate(&self) -> Query {
        Query(format!("rate({self}[$__rate_interval])"))
    }

    /// Increase of a counter over a span such as `1h`.
    pub fn increase(&self, span: &str) -> Query {
        Query(format!("increase({self}[{span}])"))
    }

    /// Number of changes of a gauge above zero over a span such as `1h`, sampled every 15 s. The change
    /// from the zero at the start does not count.
    pub fn changes(&self, span: &str) -> Query {
        Query(format!("changes(({self} > 0)[{span}:15s])"))
    }

    /// Increases of the buckets of a histogram, for a heatmap.
    pub fn buckets(&self) -> Query {
        Query(format!("sum by (le) (increase({}[$__rate_interval]))", self.bucket()))
    }

    /// Quantile of a histogram, over all series that agree in the labels.
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

/// Query as `PromQL` text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Query(String);

impl Query {
    /// Query that no other method builds. Write the series in it by [`Series`].
    pub fn raw(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// Text of the query.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Sum over all series.
    #[must_use]
    pub fn sum(&self) -> Self {
        Self(format!("sum({self})"))
    }

    /// Sums over the series that agree in the labels.
    #[must_use]
    pub fn sum_by(&self, labels: &[&str]) -> Self {
        self.by("sum", labels)
    }

    /// Highest value over all series.
    #[must_use]
    pub fn max(&self) -> Self {
        Self(format!("max({self})"))
    }

    /// Highest values over the series that agree in the labels.
    #[must_use]
    pub fn max_by(&self, labels: &[&str]) -> Self {
        self.by("max", labels)
    }

    /// Lowest value over all series.
    #[must_use]
    pub fn min(&self) -> Self {
        Self(format!("min({self})"))
    }

    /// Lowest values over the series that agree in the labels.
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
