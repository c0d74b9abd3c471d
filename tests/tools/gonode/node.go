package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"
)

const (
	unknown  = 0
	leader   = 1
	follower = 2
)

var words = [...]string{"Unknown", "Leader", "Follower"}

// metadata is stored as Go's encoder writes it: names and order are the wire format.
type metadata struct {
	ID      int64
	Address string
	Start   time.Time
	Role    int
}

type node struct {
	client  *clientv3.Client
	layout  layout
	id      int64
	address string
	ttl     int64
	tick    time.Duration
	start   time.Time
	lines   *lines

	lease atomic.Int64
	role  int
}

// run keeps the node in the cluster until ctx ends: one session after the other.
func (n *node) run(ctx context.Context) {
	wait := 20 * time.Millisecond
	for {
		err := n.session(ctx)
		if ctx.Err() != nil {
			return
		}
		n.lines.say("failed", fields{"why": fmt.Sprint(err)})
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
		wait = min(2*wait, 3*time.Second)
	}
}

// session is one lease from grant to revoke.
func (n *node) session(parent context.Context) error {
	grant, err := n.client.Grant(parent, n.ttl)
	if err != nil {
		return err
	}
	// Not the parent: what is left to do at the end still needs a session.
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	session, err := concurrency.NewSession(n.client,
		concurrency.WithLease(grant.ID), concurrency.WithContext(ctx))
	if err != nil {
		return err
	}
	election := concurrency.NewElection(session, n.layout.election())
	n.lease.Store(int64(grant.ID))
	n.lines.say("joined", fields{"lease": fmt.Sprintf("%x", grant.ID)})

	campaigns, endCampaigns := context.WithCancel(ctx)
	var campaigner sync.WaitGroup
	campaigner.Go(func() { n.campaign(campaigns, election) })
	err = n.lead(parent, ctx, session, election)

	// In this order: work, campaign, candidate key, lease, node key.
	led := n.role == leader
	n.become(unknown)
	endCampaigns()
	campaigner.Wait()
	brief, done := context.WithTimeout(ctx, time.Second)
	if led {
		_ = election.Resign(brief)
	}
	_, _ = n.client.Revoke(brief, grant.ID)
	done()
	n.lease.Store(0)
	session.Orphan()
	brief, done = context.WithTimeout(ctx, 5*time.Second)
	defer done()
	_, _ = n.client.Delete(brief, n.layout.node(n.id))
	return err
}

// campaign stands for election once a second, for a second each time; what a limit cuts short is
// withdrawn.
func (n *node) campaign(ctx context.Context, election *concurrency.Election) {
	every := time.NewTicker(time.Second)
	defer every.Stop()
	for {
		limited, done := context.WithTimeout(ctx, time.Second)
		_ = election.Campaign(limited, strconv.FormatInt(n.id, 10))
		done()
		select {
		case <-ctx.Done():
			return
		case <-every.C:
		}
	}
}

// lead follows the election, and acts when it is this node's turn, until something ends the session.
func (n *node) lead(
	parent, ctx context.Context, session *concurrency.Session, election *concurrency.Election,
) error {
	watching, cancel := context.WithCancel(ctx)
	defer cancel()
	observed := election.Observe(watching)
	renew := time.NewTicker(500 * time.Millisecond)
	defer renew.Stop()
	tick := time.NewTicker(n.tick)
	defer tick.Stop()
	for {
		select {
		case <-parent.Done():
			return parent.Err()
		case <-renew.C:
			if _, err := n.client.KeepAliveOnce(ctx, session.Lease()); err != nil {
				return fmt.Errorf("renewing the lease: %w", err)
			}
		case <-tick.C:
			if n.role == leader {
				n.lines.say("tick", nil)
			}
		case seen := <-observed:
			if seen == nil || len(seen.Kvs) == 0 {
				return errors.New("the election cannot be observed")
			}
			id, err := strconv.ParseInt(string(seen.Kvs[0].Value), 10, 64)
			if err != nil {
				return fmt.Errorf("a candidate without an id: %w", err)
			}
			// By the id in the oldest key, whoever put it.
			role := follower
			if id == n.id {
				role = leader
			}
			if err := n.take(ctx, role); err != nil {
				return err
			}
		}
	}
}

// take changes the role, if it changed, and says so in the node's key.
func (n *node) take(ctx context.Context, role int) error {
	if role == n.role {
		return nil
	}
	joining := n.role == unknown
	// What acted has ended before anything is written.
	n.become(unknown)
	if err := n.agree(ctx); err != nil {
		return err
	}
	if joining {
		n.start = time.Now()
	}
	text, err := json.Marshal(metadata{ID: n.id, Address: n.address, Start: n.start, Role: role})
	if err != nil {
		return err
	}
	if err := n.put(ctx, n.layout.node(n.id), string(text)); err != nil {
		return err
	}
	n.become(role)
	return nil
}

func (n *node) become(role int) {
	if role != n.role {
		n.lines.say("role", fields{"role": words[role]})
		n.role = role
	}
}

// agree offers the own tick and wants every node to offer the same.
func (n *node) agree(ctx context.Context) error {
	own := strconv.FormatInt(n.tick.Nanoseconds(), 10)
	if err := n.put(ctx, n.layout.value("tick", n.id), own); err != nil {
		return err
	}
	nodes, err := n.client.Get(ctx, n.layout.nodes(), clientv3.WithPrefix())
	if err != nil {
		return err
	}
	ticks, err := n.values(ctx, "tick")
	if err != nil {
		return err
	}
	for _, kv := range nodes.Kvs {
		id, ok := owner(string(kv.Key))
		if !ok {
			return fmt.Errorf("a node key without an id: %s", kv.Key)
		}
		if len(ticks[id]) == 0 {
			return fmt.Errorf("node %d has no tick", id)
		}
	}
	for id, offers := range ticks {
		if string(offers[0]) != own {
			return fmt.Errorf("cluster tick disagreement: node %d has %s", id, offers[0])
		}
	}
	return nil
}

// values are all values under a user's key, by node, in the order of their keys.
func (n *node) values(ctx context.Context, key string) (map[int64][][]byte, error) {
	found, err := n.client.Get(ctx, n.layout.values(key), clientv3.WithPrefix())
	if err != nil {
		return nil, err
	}
	values := map[int64][][]byte{}
	for _, kv := range found.Kvs {
		id, ok := owner(string(kv.Key))
		if !ok {
			return nil, fmt.Errorf("a key without an id: %s", kv.Key)
		}
		values[id] = append(values[id], kv.Value)
	}
	return values, nil
}

// put writes under the node's lease.
func (n *node) put(ctx context.Context, key, value string) error {
	lease := clientv3.LeaseID(n.lease.Load())
	if lease == clientv3.NoLease {
		return errors.New("no lease")
	}
	_, err := n.client.Put(ctx, key, value, clientv3.WithLease(lease))
	return err
}
