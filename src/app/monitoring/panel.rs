//! Panel of a dashboard: its queries, and how their values are shown.

use serde::Deserialize;
use serde_json::{Map, Value, json};

/// Data source of every panel: the one that the reader chose.
pub(super) fn datasource() -> Value {
    json!({"type": "prometheus", "uid": "${datasource}"})
}

/// Unit of values, which decides how they are formatted.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq)]
#[serde(rename_all = "snake_case")]
enum Unit {
    Bytes,
    Cores,
    Count,
    /// Number that identifies something, such as a term: written in full.
    Number,
    PerSecond,
    Ratio,
    Seconds,
    State,
}

impl Unit {
    fn id(self) -> &'static str {
        match self {
            Self::Bytes => "bytes",
            Self::Cores | Self::Count => "short",
            Self::Number | Self::State => "none",
            Self::PerSecond => "ops",
            Self::Ratio => "percentunit",
            Self::Seconds => "s",
        }
    }
}

/// Way in which values are drawn.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq)]
#[serde(rename_all = "snake_case")]
enum Kind {
    /// The buckets of a histogram over time.
    Heatmap,
    /// Lines over a time axis.
    Lines,
    /// Name of the series that has a value, in large type.
    Name,
    /// Areas on top of each other over time.
    Stacked,
    /// Last value, in large type.
    Stat,
    /// A lane for each series, coloured by its state.
    States,
    /// A table of the labels.
    Table,
}

/// Colour with a meaning. The four differ in brightness, too, so that they differ in grey, too, and for readers who
/// do not see red and green.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Colour {
    Bad,
    Calm,
    Good,
    Warn,
}

impl Colour {
    fn of(word: &str) -> Result<Self, String> {
        match word {
            "bad" => Ok(Self::Bad),
            "calm" => Ok(Self::Calm),
            "good" => Ok(Self::Good),
            "warn" => Ok(Self::Warn),
            other => Err(format!("{other}: a colour is bad, calm, good or warn")),
        }
    }

    /// From the palette of Okabe and Ito, <https://jfly.uni-koeln.de/color/>, and a light grey.
    fn code(self) -> &'static str {
        match self {
            Self::Bad => "#D55E00",
            Self::Calm => "#D9D9D9",
            Self::Good => "#56B4E9",
            Self::Warn => "#F0E442",
        }
    }
}

/// Colours by value, as `bad, 1 warn, 2 good`: the first applies from below, each other one from its value on.
#[derive(Debug, Deserialize)]
#[serde(try_from = "String")]
struct Steps(Vec<(Option<f64>, Colour)>);

impl TryFrom<String> for Steps {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let step = |text: &str| match text.split_once(' ') {
            None => Ok((None, Colour::of(text)?)),
            Some((value, colour)) => {
                let value = value.parse().map_err(|_| format!("{value} is no number"))?;
                Ok((Some(value), Colour::of(colour)?))
            }
        };
        text.split(", ").map(step).collect::<Result<_, _>>().map(Self)
    }
}

impl Default for Steps {
    fn default() -> Self {
        Self(vec![(None, Colour::Good)])
    }
}

/// Words and colours in place of values, as `0 unknown bad, 1 leader good`.
#[derive(Debug, Default, Deserialize)]
#[serde(try_from = "String")]
struct States(Vec<(String, String, Colour)>);

impl TryFrom<String> for States {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let state = |text: &str| match text.split(' ').collect::<Vec<_>>()[..] {
            [value, word, colour] => Ok((value.to_owned(), word.to_owned(), Colour::of(colour)?)),
            _ => Err(format!("{text}: write VALUE WORD COLOUR")),
        };
        text.split(", ").map(state).collect::<Result<_, _>>().map(Self)
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Query {
    /// Name of the series; it may name labels as `{{label}}`.
    legend: String,
    expr: String,
}

/// Panel as the dashboard's file has it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Panel {
    title: String,
    kind: Kind,
    unit: Unit,
    /// Description of the values. `good` and `bad` say which values are so.
    what: String,
    good: String,
    bad: String,
    #[serde(default)]
    steps: Steps,
    #[serde(default)]
    states: States,
    /// Text for queries without series.
    none: Option<String>,
    queries: Vec<Query>,
}

impl Panel {
    /// Width in columns, and height.
    pub(super) fn size(&self) -> (u32, u32) {
        match self.kind {
            Kind::Stat | Kind::Name => (4, 4),
            Kind::Lines | Kind::Stacked | Kind::Heatmap => (12, 8),
            Kind::States | Kind::Table => (24, 8),
        }
    }

    pub(super) fn model(&self, id: u32, at: &Value, narrow: &dyn Fn(&str) -> String) -> Value {
        let targets: Vec<Value> = ('A'..='Z')
            .zip(&self.queries)
            .map(|(id, query)| self.target(id, query, narrow))
            .collect();
        let steps = self
            .steps
            .0
            .iter()
            .map(|(value, colour)| json!({"value": value, "color": colour.code()}));
        let mut defaults = json!({
            "unit": self.unit.id(),
            "color": {"mode": if self.is_graph() { "palette-classic" } else { "thresholds" }},
            "thresholds": {"mode": "absolute", "steps": steps.collect::<Vec<_>>()},
            "mappings": self.mappings(),
            "custom": self.custom(),
        });
        if let Some(none) = &self.none {
            defaults["noValue"] = none.as_str().into();
        }
        if self.unit == Unit::Number {
            defaults["decimals"] = 0.into();
        }
        if self.is_graph() {
            defaults["min"] = 0.into();
        }
        json!({
            "id": id, "type": self.plugin(), "title": self.title,
            "description": format!("{}\n\n**Good**: {}\n\n**Bad**: {}", self.what, self.good, self.bad),
            "datasource": datasource(), "gridPos": at, "targets": targets,
            "fieldConfig": {"defaults": defaults, "overrides": self.overrides()},
            "options": self.options(),
            "transformations": self.transformations(),
        })
    }

    fn is_graph(&self) -> bool {
        matches!(self.kind, Kind::Lines | Kind::Stacked)
    }

    fn target(&self, id: char, query: &Query, narrow: &dyn Fn(&str) -> String) -> Value {
        let format = match self.kind {
            Kind::Table => "table",
            Kind::Heatmap => "heatmap",
            _ => "time_series",
        };
        let instant = matches!(self.kind, Kind::Table | Kind::Name);
        json!({
            "refId": id.to_string(), "datasource": datasource(), "editorMode": "code", "expr": narrow(&query.expr),
            "legendFormat": query.legend, "format": format, "instant": instant, "range": !instant,
        })
    }

    fn plugin(&self) -> &'static str {
        match self.kind {
            Kind::Heatmap => "heatmap",
            Kind::Lines | Kind::Stacked => "timeseries",
            Kind::Stat | Kind::Name => "stat",
            Kind::States => "state-timeline",
            Kind::Table => "table",
        }
    }

    fn mappings(&self) -> Vec<Value> {
        let options: Map<String, Value> = (0..)
            .zip(&self.states.0)
            .map(|(index, (value, word, colour)): (u32, _)| {
                (value.clone(), json!({"index": index, "text": word, "color": colour.code()}))
            })
            .collect();
        if options.is_empty() {
            Vec::new()
        } else {
            vec![json!({"type": "value", "options": options})]
        }
    }

    /// Dashes for the lines of all queries but the first, which differ without colours.
    fn overrides(&self) -> Vec<Value> {
        if self.kind != Kind::Lines {
            return Vec::new();
        }
        let dashes = [json!([10, 6]), json!([2, 6]), json!([16, 4, 2, 4])];
        ('B'..='D')
            .zip(dashes)
            .take(self.queries.len().saturating_sub(1))
            .map(|(id, dash)| {
                json!({
                    "matcher": {"id": "byFrameRefID", "options": id.to_string()},
                    "properties": [{"id": "custom.lineStyle", "value": {"fill": "dash", "dash": dash}}],
                })
            })
            .collect()
    }

    fn custom(&self) -> Value {
        let drawn = |opacity, stacking| {
            json!({
                "drawStyle": "line", "lineWidth": 1, "fillOpacity": opacity, "showPoints": "never",
                "spanNulls": false, "stacking": {"mode": stacking, "group": "A"},
            })
        };
        match self.kind {
            Kind::Lines => drawn(0, "none"),
            Kind::Stacked => drawn(40, "normal"),
            Kind::States => json!({"fillOpacity": 80, "lineWidth": 0}),
            Kind::Heatmap => json!({"scaleDistribution": {"type": "linear"}}),
            _ => json!({}),
        }
    }

    fn options(&self) -> Value {
        let tooltip = json!({"mode": "multi", "sort": "desc"});
        match self.kind {
            Kind::Stat | Kind::Name => json!({
                "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": false},
                "colorMode": "value", "justifyMode": "auto", "orientation": "auto",
                "graphMode": if self.kind == Kind::Stat { "area" } else { "none" },
                "textMode": if self.kind == Kind::Name { "name" } else { "auto" },
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
