// franz-go as anybody would use it: a group, from the beginning, committed only. With the address
// of a schema registry it decodes each value by it, too.
package main

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/hamba/avro/v2"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sr"
)

type line struct {
	Topic       string            `json:"topic"`
	Partition   int32             `json:"partition"`
	Offset      int64             `json:"offset"`
	Key         *string           `json:"key"`
	Headers     map[string]string `json:"headers"`
	ValueBase64 *string           `json:"value_base64"`
	Value       any               `json:"value,omitempty"`
}

// Reads Confluent's wire format.
type decoder struct {
	registry *sr.Client
	schemas  map[int]avro.Schema
}

func main() {
	if err := consume(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "franz-go:", err)
		os.Exit(2)
	}
}

func consume(args []string) error {
	countMax, err := strconv.Atoi(args[2])
	if err != nil {
		return err
	}
	seconds, err := strconv.Atoi(args[3])
	if err != nil {
		return err
	}
	client, err := kgo.NewClient(
		kgo.SeedBrokers(strings.Split(args[0], ",")...),
		kgo.ConsumeTopics(args[1]),
		kgo.ConsumerGroup(args[4]),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()),
	)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Duration(seconds)*time.Second)
	defer cancel()
	var values *decoder
	if len(args) > 5 && args[5] != "" {
		registry, err := sr.NewClient(sr.URLs(args[5]))
		if err != nil {
			return err
		}
		values = &decoder{registry: registry, schemas: map[int]avro.Schema{}}
	}
	out := json.NewEncoder(os.Stdout)
	count := 0
	for count < countMax && ctx.Err() == nil {
		fetches := client.PollFetches(ctx)
		for _, record := range fetches.Records() {
			if count == countMax {
				break
			}
			it := asLine(record)
			if values != nil {
				if it.Value, err = values.decode(ctx, record.Value); err != nil {
					return err
				}
			}
			if err := out.Encode(it); err != nil {
				return err
			}
			count++
		}
	}
	client.Close()
	if count < countMax {
		os.Exit(1)
	}
	return nil
}

func (d *decoder) decode(ctx context.Context, value []byte) (any, error) {
	id, datum, err := new(sr.ConfluentHeader).DecodeID(value)
	if err != nil {
		return nil, err
	}
	schema, known := d.schemas[id]
	if !known {
		registered, err := d.registry.SchemaByID(ctx, id)
		if err != nil {
			return nil, err
		}
		if schema, err = avro.Parse(registered.Schema); err != nil {
			return nil, err
		}
		d.schemas[id] = schema
	}
	var decoded any
	err = avro.Unmarshal(schema, datum, &decoded)
	return decoded, err
}

func asLine(record *kgo.Record) line {
	it := line{
		Topic: record.Topic, Partition: record.Partition, Offset: record.Offset,
		Headers: map[string]string{},
	}
	if record.Key != nil {
		key := string(record.Key)
		it.Key = &key
	}
	for _, header := range record.Headers {
		it.Headers[header.Key] = string(header.Value)
	}
	if record.Value != nil {
		value := base64.StdEncoding.EncodeToString(record.Value)
		it.ValueBase64 = &value
	}
	return it
}
