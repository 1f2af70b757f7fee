// Package invoicing turns usage and price plans into documents: accounts,
// billing periods, closings, invoices and what has accrued since.
//
// It owns the rule of what a closing bills. It never reads a clock or a
// database, never prices anything (rating does) and knows no machine: an
// odometer here is an epoch or an allocation, whatever it belongs to.
//
// # How a closing works
//
// A tenant's periods are the calendar months of its billing zone, from the one
// that holds its account's creation. A closing cuts a period P = [p0, p1) at an
// instant c with p0 < c ≤ p1; the cut at p1 is the period's last. A period is
// never cut again after its last cut, and the next one is not cut before it.
//
// Per odometer, W is the level up to which closings have billed it: its opening
// before the first. A closing raises it to max(W, R(c)), where R(t) is the
// odometer at t, and splits that climb over the periods it happened in: up to
// max(W, R(end of Q)) it belongs to Q or to periods before. What falls into a
// period older than P is late usage. Each piece is a Segment (odometer, period, from, to).
// Segments are the closing readings; they are stored and never change, those of one odometer
// join end to end, and everything billed is a function of them.
//
// A period has as many parts as plans are in force in it (Rated): the version that
// it began under, as its first closing fixed it, and each version that took effect
// within, also one published after that closing. Segments are split where a part
// begins, as they are where a time class does, so late usage falls under the part
// that its instant lies in; one that was billed as a whole before the later part was
// published lies before it, since no version takes effect before a cut. The
// first part's lines keep their keys, others are named after their beginning, so
// nothing moves when a part is added. A closing records the newest version that it knew.
//
// Where a rate bills by slots (a percentile), a segment also says how its climb lies
// in slots (Slots). That is a difference like all others: what two closings billed of a
// slot adds up, and a slot counts as measured when anything climbed in it.
//
// Money is a difference too. For a period, rating's F gives each line (by key)
// its amount over all usage of the period that any closing billed, this one
// included; the invoice's line is that amount, rounded, less what the tenant's earlier invoices
// have under the same period and key. So late usage costs F(billed + late) −
// F(billed) under that period's own plan version, cuts sum to the uncut month,
// and whatever one invoice leaves out stands on the next, without any state.
// Three things are left out: at a cut that is not the period's last, lines of rates
// whose F may fall as usage grows; and all lines while their sum is not above
// zero, since an invoice is above zero and only a credit note gives money back.
// Closing.Unsettled says from which period on something is left out.
// Late usage changes what later periods know of a start (its "before"), so a
// closing rates all periods from the earliest it touches or that is unsettled up to P.
//
// # Invariants
//
//   - Segments of one odometer join end to end from its opening to W; none
//     overlap. The sum over all invoices is R(last closing) − opening.
//   - W never falls, whatever arrives and in whatever order closings read it.
//   - An invoice's lines sum to its net, net and tax to its gross, the shares of
//     a line to its amount, and its entry to zero.
//   - A closing that does not issue an invoice takes no number and still bills its
//     segments: nothing is read twice.
//   - The slots of a segment sum to its climb.
//   - No plan changes at an instant that is billed already.
//   - An invoice can be made again from segments, plan versions and earlier
//     lines alone, to the cent.
package invoicing
