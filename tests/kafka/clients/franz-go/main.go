// franz-go as anybody would use it: a group, from the beginning, committed only.
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

	"github.com/twmb/franz-go/pkg/kgo"
)

type line struct {
	Topic       string            `json:"topic"`
	Partition   int32             `json:"partition"`
	Offset      int64             `json:"offset"`
	Key         *string           `json:"key"`
	Headers     map[string]string `json:"headers"`
	ValueBase64 *string           `json:"value_base64"`
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
	out := json.NewEncoder(os.Stdout)
	count := 0
	for count < countMax && ctx.Err() == nil {
		fetches := client.PollFetches(ctx)
		for _, record := range fetches.Records() {
			if count == countMax {
				break
			}
			if err := out.Encode(asLine(record)); err != nil {
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
