package metering

// Columns are accepted readings on their way into ClickHouse, column by column;
// all slices have the same length. Tenant and Instance come from the control
// plane's record of the epoch.
type Columns struct {
	Tenant     []string
	Instance   []string
	Epoch      []string
	AtMS       []int64 // the reading's time, ms since 1970 UTC
	ReceivedMS []int64 // the server's clock when it came in
	Registers  [RegisterCount][]uint64
}

// Len is the number of rows.
func (c *Columns) Len() int { return len(c.AtMS) }

// Reset empties the columns and keeps their memory.
func (c *Columns) Reset() {
	c.Tenant, c.Instance, c.Epoch = c.Tenant[:0], c.Instance[:0], c.Epoch[:0]
	c.AtMS, c.ReceivedMS = c.AtMS[:0], c.ReceivedMS[:0]
	for i := range c.Registers {
		c.Registers[i] = c.Registers[i][:0]
	}
}
