package main

import (
	"strconv"
	"strings"
)

// layout names the keys of one cluster. A node's own key ends with its id, after the user's part.
type layout struct{ cluster string }

func (l layout) election() string { return "/" + l.cluster + "/election" }

func (l layout) nodes() string { return "/" + l.cluster + "/nodes/" }

func (l layout) node(id int64) string { return l.nodes() + strconv.FormatInt(id, 10) }

func (l layout) values(key string) string { return "/" + l.cluster + "/state-data/" + key + "/" }

func (l layout) value(key string, id int64) string {
	return l.values(key) + strconv.FormatInt(id, 10)
}

// owner is the id at the end of a key.
func owner(key string) (int64, bool) {
	at := strings.LastIndex(key, "/")
	id, err := strconv.ParseInt(key[at+1:], 10, 64)
	return id, at >= 0 && err == nil
}
