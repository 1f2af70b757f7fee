package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ClickHouse/ch-go/proto"
	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/usance/usance/metering"
)

// batchOf makes a batch of so many epochs and readings of each.
func batchOf(epochs, readings int) *metering.Batch {
	b := &metering.Batch{}
	opened := time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)
	for i := range epochs {
		instance := metering.InstanceID(fmt.Sprintf("ins_%017x", i))
		e := metering.Epoch{
			ID: metering.DeriveEpochID(instance, "boot", 100+i, 4711, 0), Instance: instance,
			Lease: 1, Start: metering.StartNo(i%3 + 1), Opened: opened,
		}
		b.Epochs = append(b.Epochs, e)
	}
	for n := range readings {
		for i, e := range b.Epochs {
			r := metering.Reading{Epoch: e.ID, At: opened.Add(time.Duration(n+1) * 10 * time.Second)}
			for reg := range r.Registers {
				r.Registers[reg] = uint64((n + 1) * (i + 7) * (1000 + 37*reg))
			}
			b.Readings = append(b.Readings, r)
		}
	}
	return b
}

func TestRoundTrip(t *testing.T) {
	for _, size := range []struct{ epochs, readings int }{{0, 0}, {1, 0}, {1, 1}, {3, 5}, {200, 30}} {
		want := batchOf(size.epochs, size.readings)
		body, err := Encode([]byte("before"), want)
		if err != nil {
			t.Fatalf("%+v: %v", size, err)
		}
		var got Batch
		if err := Decode(&got, body[len("before"):]); err != nil {
			t.Fatalf("%+v: %v", size, err)
		}
		if got.Len() != len(want.Readings) || len(got.Epochs) != len(want.Epochs) {
			t.Fatalf("%+v: got %d readings of %d epochs", size, got.Len(), len(got.Epochs))
		}
		if len(want.Readings) > 0 {
			if diff := cmp.Diff(want, got.Rows()); diff != "" {
				t.Errorf("%+v (-want +got):\n%s", size, diff)
			}
		}
	}
}

// Reused memory must not show in the next batch.
func TestRoundTripReused(t *testing.T) {
	var got Batch
	rapid.Check(t, func(t *rapid.T) {
		want := batchOf(rapid.IntRange(1, 20).Draw(t, "epochs"), rapid.IntRange(1, 20).Draw(t, "readings"))
		for i := range want.Readings {
			for reg := range want.Readings[i].Registers {
				want.Readings[i].Registers[reg] = rapid.Uint64Max(math.MaxInt64).Draw(t, "register")
			}
		}
		body, err := Encode(nil, want)
		if err != nil {
			t.Fatal(err)
		}
		if err := Decode(&got, body); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got.Rows()); diff != "" {
			t.Fatalf("(-want +got):\n%s", diff)
		}
	})
}

func TestEncodeRefuses(t *testing.T) {
	for _, test := range []struct {
		name  string
		spoil func(b *metering.Batch)
		want  string
	}{
		{"a reading without its epoch", func(b *metering.Batch) { b.Readings[0].Epoch = "ff" }, `epoch "ff" comes without`},
		{"an epoch twice", func(b *metering.Batch) { b.Epochs[1].ID = b.Epochs[0].ID }, "is there twice"},
		{"an epoch id of another form", func(b *metering.Batch) { b.Epochs[0].ID = "0123" }, `"0123" is not an epoch id`},
		{"an instance id of another form", func(b *metering.Batch) { b.Epochs[0].Instance = "vm-1" }, `"vm-1" is not an id`},
		{"no lease", func(b *metering.Batch) { b.Epochs[0].Lease = 0 }, "both count from 1"},
		{"a register above an int64", func(b *metering.Batch) { b.Readings[0].Registers[metering.CPUNS] = 1 << 63 }, "register cpu_ns: 9223372036854775808 is above"},
		{"an opening register above an int64", func(b *metering.Batch) { b.Epochs[0].Opening[metering.CPUNS] = 1 << 63 }, "opening reading: register cpu_ns"},
		{"a time before 1970", func(b *metering.Batch) { b.Readings[0].At = time.Time{} }, "is not a time between"},
		{"no opening time", func(b *metering.Batch) { b.Epochs[0].Opened = time.Time{} }, "opened: "},
		{"too many readings", func(b *metering.Batch) { b.Readings = make([]metering.Reading, MaxReadings+1) }, "at most 10000 and 20000 fit"},
		{"too many epochs", func(b *metering.Batch) { b.Epochs = make([]metering.Epoch, MaxEpochs+1) }, "at most 10000 and 20000 fit"},
	} {
		b := batchOf(2, 1)
		test.spoil(b)
		if _, err := Encode(nil, b); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: got %v, want an error with %q", test.name, err, test.want)
		}
	}
}

// The largest batch fits in the limits of bytes, even if nothing could be compressed.
func TestLimitsAgree(t *testing.T) {
	b := batchOf(MaxEpochs, 2)
	body, err := Encode(nil, b)
	if err != nil {
		t.Fatal(err)
	}
	plain, err := decoders.DecodeAll(body, nil)
	if err != nil {
		t.Fatal(err)
	}
	if len(b.Readings) != MaxReadings || len(plain) > MaxDecodedBytes-1<<16 {
		t.Errorf("%d readings take %d bytes of %d", len(b.Readings), len(plain), MaxDecodedBytes)
	}
	if err := Decode(new(Batch), body); err != nil {
		t.Error(err)
	}
}

// bodyOf compresses a body made by hand.
func bodyOf(f func(b *proto.Buffer)) []byte {
	var b proto.Buffer
	f(&b)
	return encoders.EncodeAll(b.Buf, nil)
}

// plainOf is a good body before compression.
func plainOf(t testing.TB, b *metering.Batch) []byte {
	body, err := Encode(nil, b)
	if err != nil {
		t.Fatal(err)
	}
	plain, err := decoders.DecodeAll(body, nil)
	if err != nil {
		t.Fatal(err)
	}
	return plain
}

// replaced is a good body with one occurrence of a text replaced.
func replaced(t testing.TB, old, new string) []byte {
	plain := string(plainOf(t, batchOf(2, 1)))
	if !strings.Contains(plain, old) {
		t.Fatalf("a body does not contain %q", old)
	}
	return encoders.EncodeAll([]byte(strings.Replace(plain, old, new, 1)), nil)
}

// hostile are bodies that must be refused, and the reason that must be given.
func hostile(t testing.TB) map[string]struct {
	body []byte
	want string
} {
	good, _ := Encode(nil, batchOf(2, 1))
	plain := plainOf(t, batchOf(2, 1))
	manyRows := func(rows int) []byte {
		return bodyOf(func(b *proto.Buffer) {
			b.PutUVarInt(Version)
			b.PutInt(1)
			b.PutInt(rows)
			b.PutString("id")
			b.PutString("FixedString(32)")
		})
	}
	return map[string]struct {
		body []byte
		want string
	}{
		"empty":             {nil, "version: unexpected EOF"},
		"not zstd":          {[]byte("POST /v1/readings"), "decompress: "},
		"truncated":         {good[:len(good)-7], "decompress: "},
		"too large":         {make([]byte, MaxBodyBytes+1), "at most 6291456 are taken"},
		"a bomb":            {encoders.EncodeAll(make([]byte, 1<<27), nil), "more than 6291456 bytes"},
		"many small bombs":  {manyFrames(), "more than 6291456 bytes"},
		"another version":   {bodyOf(func(b *proto.Buffer) { b.PutUVarInt(2) }), "version 2; 1 is understood"},
		"an endless number": {encoders.EncodeAll([]byte(strings.Repeat("\xff", 12)), nil), "a number of more than 63 bits"},
		"cut after version": {encoders.EncodeAll(plain[:1], nil), "number of columns: unexpected EOF"},
		"cut in a name":     {encoders.EncodeAll(plain[:5], nil), "unexpected EOF"},
		"cut in a column":   {encoders.EncodeAll(plain[:len(plain)-9], nil), `rows of 8 bytes in the last`},
		"bytes after":       {encoders.EncodeAll(append(plain[:len(plain):len(plain)], 0), nil), "1 bytes after the readings"},
		"many columns":      {bodyOf(func(b *proto.Buffer) { b.PutUVarInt(Version); b.PutInt(1 << 40) }), "columns instead of 24"},
		"many rows":         {manyRows(MaxEpochs + 1), "10001 rows; at most 10000 are taken"},
		"many readings": {bodyOf(func(b *proto.Buffer) {
			b.PutUVarInt(Version)
			putEmptyBlock(b, epochColumns()...)
			b.PutInt(1)
			b.PutInt(MaxReadings + 1)
		}), "20001 rows; at most 20000 are taken"},
		"rows without data": {manyRows(MaxEpochs), `column "id": 10000 rows of 32 bytes in the last 0 bytes`},
		"a long name": {bodyOf(func(b *proto.Buffer) {
			b.PutUVarInt(Version)
			b.PutInt(1)
			b.PutInt(1)
			b.PutInt(1 << 40)
		}), "at most 64 are taken"},
		"unknown register":  {replaced(t, "paused_ms", "stolen_ms"), `column "stolen_ms" is unknown`},
		"missing registers": {bodyOf(func(b *proto.Buffer) { b.PutUVarInt(Version); b.PutInt(0); b.PutInt(0) }), `column "id" is missing`},
		"another type":      {replaced(t, "\x06UInt64", "\x06Int64 "), `type "Int64 " instead of UInt64`},
		"an id in capitals": {replaced(t, string(batchOf(1, 0).Epochs[0].ID), strings.Repeat("F", 32)), "is not an epoch id"},
		"an epoch twice": {replaced(t, string(batchOf(2, 0).Epochs[1].ID), string(batchOf(1, 0).Epochs[0].ID)),
			"is there twice"},
		"another instance": {replaced(t, "ins_", "vol_"), "is not an id"},
	}
}

func epochColumns() []string {
	return append(metering.RegisterNames(), columnStart, columnLease, columnOpenedMS, columnInstance, columnID)
}

// putEmptyBlock is a block of columns without rows.
func putEmptyBlock(b *proto.Buffer, names ...string) {
	b.PutInt(len(names))
	b.PutInt(0)
	for _, name := range names {
		b.PutString(name)
		switch name {
		case columnID:
			b.PutString("FixedString(32)")
		case columnInstance:
			b.PutString("FixedString(21)")
		case columnStart, columnEpoch:
			b.PutString("UInt32")
		case columnOpenedMS, columnAtMS:
			b.PutString("Int64")
		default:
			b.PutString("UInt64")
		}
	}
}

// manyFrames are frames of which each is small enough, and all are not.
func manyFrames() []byte {
	frame := encoders.EncodeAll(make([]byte, MaxDecodedBytes/2), nil)
	return append(append(append([]byte(nil), frame...), frame...), frame...)
}

func TestDecodeRefuses(t *testing.T) {
	for name, test := range hostile(t) {
		err := Decode(new(Batch), test.body)
		if !errors.Is(err, ErrMalformed) || !strings.Contains(fmt.Sprint(err), test.want) {
			t.Errorf("%s: got %v, want a malformed batch with %q", name, err, test.want)
		}
	}
}

func TestDecodeRefusesValues(t *testing.T) {
	b := batchOf(1, 1)
	b.Readings[0].Registers[metering.NetPrivateTxPackets] = 0x0123456789abcdef
	plain := plainOf(t, b) // the last 8 bytes are the last register
	copy(plain[len(plain)-8:], "\xff\xff\xff\xff\xff\xff\xff\xff")
	if err := Decode(new(Batch), encoders.EncodeAll(plain, nil)); !errors.Is(err, ErrMalformed) ||
		!strings.Contains(err.Error(), "register net_private_tx_packets: 18446744073709551615 is above") {
		t.Errorf("a register above an int64: got %v", err)
	}
	plain = plainOf(t, batchOf(2, 1))
	at := strings.LastIndex(string(plain), "\x06UInt32") + len("\x06UInt32")
	plain[at] = 2 // the index of the first reading's epoch
	if err := Decode(new(Batch), encoders.EncodeAll(plain, nil)); !errors.Is(err, ErrMalformed) ||
		!strings.Contains(err.Error(), "row 0: epoch 2 of 2") {
		t.Errorf("an index without record: got %v", err)
	}
}

func TestDecodeRefusesTimes(t *testing.T) {
	for _, at := range []int64{-1, MaxTimeMS + 1, math.MinInt64, math.MaxInt64} {
		plain := plainOf(t, batchOf(1, 1))
		place := strings.LastIndex(string(plain), "\x05Int64") + len("\x05Int64")
		binary.LittleEndian.PutUint64(plain[place:], uint64(at))
		if err := Decode(new(Batch), encoders.EncodeAll(plain, nil)); !errors.Is(err, ErrMalformed) ||
			!strings.Contains(err.Error(), "is not a time between") {
			t.Errorf("%d ms: got %v", at, err)
		}
	}
}

func TestKeep(t *testing.T) {
	var b Batch
	body, err := Encode(nil, batchOf(2, 2))
	if err != nil {
		t.Fatal(err)
	}
	for _, rows := range [][]int{{}, {0}, {3}, {1, 2}, {0, 1, 2, 3}} {
		if err := Decode(&b, body); err != nil {
			t.Fatal(err)
		}
		want := []metering.Reading{}
		for _, i := range rows {
			want = append(want, b.Reading(i))
		}
		b.Keep(rows)
		if diff := cmp.Diff(want, b.Rows().Readings); diff != "" {
			t.Errorf("keep %v (-want +got):\n%s", rows, diff)
		}
	}
}

// Columns may come in any order, and none twice.
func TestDecodeColumnOrder(t *testing.T) {
	epochs, readings := epochColumns(), append(metering.RegisterNames(), columnAtMS, columnEpoch)
	body := bodyOf(func(b *proto.Buffer) {
		b.PutUVarInt(Version)
		putEmptyBlock(b, epochs...)
		putEmptyBlock(b, readings...)
	})
	if err := Decode(new(Batch), body); err != nil {
		t.Errorf("another order: %v", err)
	}
	readings[0] = readings[1]
	body = bodyOf(func(b *proto.Buffer) {
		b.PutUVarInt(Version)
		putEmptyBlock(b, epochs...)
		putEmptyBlock(b, readings...)
	})
	if err := Decode(new(Batch), body); err == nil || !strings.Contains(err.Error(), `column "paused_ms" is there twice`) {
		t.Errorf("a column twice: got %v", err)
	}
}

// FuzzDecode: any bytes give an error or a batch within the limits that encodes again.
func FuzzDecode(f *testing.F) {
	for _, h := range hostile(f) {
		if len(h.body) < 1<<16 {
			f.Add(h.body, true)
		}
	}
	f.Add(plainOf(f, batchOf(2, 2)), false)
	f.Fuzz(func(t *testing.T, body []byte, compressed bool) {
		if !compressed { // the fuzzer should not have to learn zstd
			body = encoders.EncodeAll(body, nil)
		}
		var b Batch
		if err := Decode(&b, body); err != nil {
			if !errors.Is(err, ErrMalformed) {
				t.Fatalf("%v is not ErrMalformed", err)
			}
			return
		}
		if b.Len() > MaxReadings || len(b.Epochs) > MaxEpochs {
			t.Fatalf("%d readings, %d epochs", b.Len(), len(b.Epochs))
		}
		again, err := Encode(nil, b.Rows())
		if err != nil {
			t.Fatalf("a decoded batch cannot be encoded: %v", err)
		}
		if err := Decode(new(Batch), again); err != nil {
			t.Fatal(err)
		}
	})
}

// TestCorpusIsKept: the fuzz corpus is part of the tests; a lost folder would go unnoticed.
func TestCorpusIsKept(t *testing.T) {
	if entries, err := os.ReadDir(filepath.Join("testdata", "fuzz", "FuzzDecode")); err != nil || len(entries) == 0 {
		t.Errorf("the corpus of FuzzDecode: %d entries, %v", len(entries), err)
	}
}

// BenchmarkEncode and BenchmarkDecode report readings per second; the ratio is to
// compressing or decompressing the same bytes alone.
func BenchmarkEncode(b *testing.B) {
	batch := batchOf(100, 100)
	plain := plainOf(b, batch)
	var body []byte
	b.Run("bare-zstd", func(b *testing.B) {
		for b.Loop() {
			body = encoders.EncodeAll(plain, body[:0])
		}
	})
	b.Run("batch", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			body, _ = Encode(body[:0], batch)
		}
		b.ReportMetric(float64(len(batch.Readings))*float64(b.N)/b.Elapsed().Seconds(), "readings/s")
		b.ReportMetric(float64(len(body))/float64(len(batch.Readings)), "B/reading")
	})
}

func BenchmarkDecode(b *testing.B) {
	batch := batchOf(100, 100)
	body, err := Encode(nil, batch)
	if err != nil {
		b.Fatal(err)
	}
	b.Run("bare-zstd", func(b *testing.B) {
		var plain []byte
		for b.Loop() {
			plain, _ = decoders.DecodeAll(body, plain[:0])
		}
	})
	b.Run("batch", func(b *testing.B) {
		var in Batch
		b.ReportAllocs()
		for b.Loop() {
			if err := Decode(&in, body); err != nil {
				b.Fatal(err)
			}
		}
		b.ReportMetric(float64(in.Len())*float64(b.N)/b.Elapsed().Seconds(), "readings/s")
	})
}
