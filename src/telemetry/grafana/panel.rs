//! Panel of a dashboard: queries, and how their values are shown.

use serde_json::{Value, json};

use super::{Query, datasource};

/// Unit of values, which decides how they are formatted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Number of things that are counted.
    Count,
    /// Duration or time, in seconds.
    Seconds,
    /// Amount of data, in bytes.
    Bytes,
    /// Number of events per second.
    PerSecond,
    /// Ratio between 0 and 1.
    Ratio,
    /// Number that identifies something, such as a term: written in full.
    Number,
    /// State: one of several values.
    State,
}

impl Unit {
    fn id(self) -> &'static str {
        match self {
            Self::Count => "short",
            Self::Seconds => "s",
            Self::Bytes => "bytes",
            Self::PerSecond => "ops",
            Self::Ratio => "percentunit",
            Self::Number | Self::State => "none",
        }
    }
}

/// Way in which values are drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Last value, in large type.
    Stat,
    /// Name of the series that has a value, in large type.
    NameStat,
    /// Lines over a time axis.
    Lines,
    /// Areas on top of each other over time.
    Stacked,
    /// A lane for each series, coloured by its state.
    States,
    /// The buckets of a histogram over time.
    Heatmap,
    /// A table of the labels.
    Table,
}

/// Colour, and the value from which on it is shown.
pub type Step = (Option<f64>, &'static str);

#[derive(Clone, Debug)]
struct Target {
    query: Query,
    legend: &'static str,
}

/// Panel of a dashboard.
#[derive(Clone, Debug)]
pub struct Panel {
    kind: Kind,
    title: &'static str,
    description: &'static str,
    unit: Unit,
    targets: Vec<Target>,
    steps: Vec<Step>,
    states: Vec<(i64, &'static str, &'static str)>,
    none: Option<&'static str>,
    size: Option<(u32, u32)>,
}

impl Panel {
    /// Creates a panel without queries.
    pub fn new(kind: Kind, title: &'static str, unit: Unit, description: &'static str) -> Self {
        Self {
            kind,
            title,
            description,
            unit,
            targets: Vec::new(),
            steps: vec![(None, "green")],
            states: Vec::new(),
            none: None,
            size: None,
        }
    }

    /// Adds a query; the legend may name labels as `{{label}}`.
    #[must_use]
    pub fn query(mut self, legend: &'static str, query: Query) -> Self {
        self.targets.push(Target { query, legend });
        self
    }

    /// Sets colours by value. The first step has no value: it applies from below.
    #[must_use]
    pub fn steps(mut self, steps: &[Step]) -> Self {
        self.steps = steps.to_vec();
        self
    }

    /// Shows a word and a colour instead of a value.
    #[must_use]
    pub fn state(mut self, value: i64, word: &'static str, colour: &'static str) -> Self {
        self.states.push((value, word, colour));
        self
    }

    /// Sets the text for queries without series.
    #[must_use]
    pub fn or_say(mut self, none: &'static str) -> Self {
        self.none = Some(none);
        self
    }

    /// Sets the size in columns and lines, instead of the default of the kind.
    #[must_use]
    pub fn sized(mut self, width: u32, height: u32) -> Self {
        self.size = Some((width, height));
        self
    }

    pub(super) fn size(&self) -> (u32, u32) {
        self.size.unwrap_or(match self.kind {
            Kind::Stat | Kind::NameStat => (4, 4),
            Kind::Lines | Kind::Stacked | Kind::Heatmap => (12, 8),
            Kind::States | Kind::Table => (24, 8),
        })
    }

    pub(super) fn to_json(&self, id: u32, at: &Value) -> Value {
        let targets: Vec<Value> =
            ('A'..='Z').zip(&self.targets).map(|(id, target)| self.target(id, target)).collect();
        let mut defaults = json!({
            "unit": self.unit.id(),
            "color": {"mode": self.colours()},
            "thresholds": {"mode": "absolute", "steps": self.steps.iter().map(|(value, colour)| {
                json!({"value": value, "color": colour})
            }).collect::<Vec<_>>()},
            "mappings": self.mappings(),
            "custom": self.custom(),
        });
        if let Some(none) = self.none {
            defaults["noValue"] = none.into();
        }
        if matches!(self.unit, Unit::Number) {
            defaults["decimals"] = 0.into();
        }
        if matches!(self.kind, Kind::Lines | Kind::Stacked) {
            defaults["min"] = 0.into();
        }
        json!({
            "id": id, "type": self.plugin(), "title": self.title, "description": self.description,
            "datasource": datasource(), "gridPos": at, "targets": targets,
            "fieldConfig": {"defaults": defaults, "overrides": []},
            "options": self.options(),
            "transformations": self.transformations(),
        })
    }

    fn target(&self, id: char, target: &Target) -> Value {
        let format = match self.kind {
            Kind::Table => "table",
            Kind::Heatmap => "heatmap",
            _ => "time_series",
        };
        let instant = matches!(self.kind, Kind::Table | Kind::NameStat);
        json!({
            "refId": id.to_string(), "datasource": datasource(), "editorMode": "code",
            "expr": target.query.as_str(), "legendFormat": target.legend, "format": format,
            "instant": instant, "range": !instant,
        })
    }

    fn plugin(&self) -> &'static str {
        match self.kind {
            Kind::Stat | Kind::NameStat => "stat",
            Kind::Lines | Kind::Stacked => "timeseries",
            Kind::States => "state-timeline",
            Kind::Heatmap => "heatmap",
            Kind::Table => "table",
        }
    }

    fn colours(&self) -> &'static str {
        match self.kind {
            Kind::Lines | Kind::Stacked => "palette-classic",
            _ => "thresholds",
        }
    }

    fn mappings(&self) -> Vec<Value> {
        if self.states.is_empty() {
            return Vec::new();
        }
        let options: serde_json::Map<String, Value> = (0..)
            .zip(&self.states)
            .map(|(index, (value, word, colour)): (u32, _)| {
                (value.to_string(), json!({"index": index, "text": word, "color": colour}))
            })
            .collect();
        vec![json!({"type": "value", "options": options})]
    }

    fn custom(&self) -> Value {
        match self.kind {
            Kind::Lines => json!({
                "drawStyle": "line", "lineWidth": 1, "fillOpacity": 8, "showPoints": "never",
                "spanNulls": false, "stacking": {"mode": "none", "group": "A"},
            }),
            Kind::Stacked => json!({
                "drawStyle": "line", "lineWidth": 1, "fillOpacity": 40, "showPoints": "never",
                "spanNulls": false, "stacking": {"mode": "normal", "group": "A"},
            }),
            Kind::States => json!({"fillOpacity": 80, "lineWidth": 0}),
            Kind::Heatmap => json!({"scaleDistribution": {"type": "linear"}}),
            _ => json!({}),
        }
    }

    fn options(&self) -> Value {
        let tooltip = json!({"mode": "multi", "sort": "desc"});
        match self.kind {
            Kind::Stat | Kind::NameStat => json!({
                "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": false},
                "colorMode": "value", "justifyMode": "auto", "orientation": "auto",
                "graphMode": if self.kind == Kind::Stat { "area" } else { "none" },
                "textMode": if self.kind == Kind::NameStat { "name" } else { "auto" },
            }),
            Kind::Lines | Kind::Stacked => json!({
                "legend": {"displayMode": "table", "placement": "bottom", "showLegend": true,
                           "calcs": ["lastNotNull", "max"]},
                "tooltip": tooltip,
            }),
            Kind::States => json!({
                "mergeValues": true, "showValue": "auto", "alignValue": "left", "rowHeight": 0.85,
                "legend": {"displayMode": "list", "placement": "bottom", "showLegend": true},
                "tooltip": tooltip,
            }),
            Kind::Heatmap => json!({
                "calculate": false, "cellGap": 1, "filterValues": {"le": 1e-9},
                "color": {"mode": "scheme", "scheme": "Oranges", "steps": 64, "reverse": false},
                "yAxis": {"unit": self.unit.id(), "axisPlacement": "left"},
                "legend": {"show": true}, "tooltip": {"mode": "single", "yHistogram": false},
            }),
            Kind::Table => {
                json!({"showHeader": true, "cellHeight": "sm", "footer": {"show": false}})
            }
        }
    }

    /// Removes time and value from a table: only the labels are of interest.
    fn transformations(&self) -> Value {
        match self.kind {
            Kind::Table => json!([{
                "id": "organize",
                "options": {"excludeByName": {"Time": true, "Value": true}, "indexByName": {}, "renameByName": {}},
            }]),
            _ => json!([]),
        }
    }
}
