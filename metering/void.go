package metering

import (
	"crypto/sha256"
	"encoding/hex"
	"time"
)

// Void takes back the readings of an epoch from an instant on. Max has no undo,
// so nothing is taken out of the stores: what the epoch counts for is capped, and
// what its agent goes on to send counts for a replacing epoch, which opens at the
// last reading that was taken back.
//
// Counted is then at most the truth. The cap is what the epoch stood at before
// the instant; the replacing epoch holds growth alone, which an error that stays
// in the registers cancels out of. What grew in between is given away.
type Void struct {
	From time.Time // readings later than this are not counted
	Cap  Registers // R(e, From) when it was voided; what comes later for the time before does not raise it
	Next EpochID   // the replacing epoch, derived by ReplacingEpochID
	// NextOpened and NextOpening are the replacing epoch's opening reading: the
	// latest reading by time when the epoch was voided. Later readings are of the
	// replacing epoch; those up to it that are not of the time before From count for nothing.
	NextOpened  time.Time
	NextOpening Registers
}

// ReplacingEpochID derives the id of the epoch that continues a voided one.
func ReplacingEpochID(voided EpochID) EpochID {
	h := sha256.Sum256([]byte("replaces " + voided))
	return EpochID(hex.EncodeToString(h[:16]))
}

// NewVoid voids an epoch from an instant on: at is R(e, from), last the latest
// reading of all. The instant is rounded down to the millisecond.
func (e EpochRecord) NewVoid(from time.Time, at Registers, last Reading) Void {
	v := Void{From: from.UTC().Truncate(time.Millisecond), Cap: e.Opening.Join(at), Next: ReplacingEpochID(e.ID),
		NextOpened: last.At, NextOpening: e.Opening.Join(last.Registers)}
	if last.At.Before(v.From) {
		v.NextOpened = v.From
	}
	return v
}

// Replacing is the record of the epoch that continues a voided one: of the same
// lease, start and labels.
func (e EpochRecord) Replacing() EpochRecord {
	next := e
	next.ID, next.Opened, next.Opening, next.Void = e.Void.Next, e.Void.NextOpened, e.Void.NextOpening, nil
	return next
}

// Counted is what the epoch counts for where its readings say r: never below its
// opening reading nor, once it is voided, above the cap.
func (e EpochRecord) Counted(r Registers) Registers {
	r = e.Opening.Join(r)
	if e.Void == nil {
		return r
	}
	return r.Meet(e.Void.Cap)
}

// Meet is the smaller value of each register.
func (r Registers) Meet(o Registers) Registers {
	for i := range r {
		r[i] = min(r[i], o[i])
	}
	return r
}
