package hostapi

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
)

// Image makes every file of the image exist in dir and returns their paths by
// file name ("kernel", "initrd", "disk"). Files are kept under their SHA-256, so
// what is there already is not fetched again; a broken download is resumed. What
// appears under its checksum was verified. It runs as long as ctx allows; two
// calls at once for the same file are not supported.
func (c *Client) Image(ctx context.Context, img Image, dir string) (map[string]string, error) {
	if err := img.Check(); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("image %s: %w", img.Name, err)
	}
	paths := make(map[string]string, len(img.Files))
	for _, f := range img.Files {
		path := filepath.Join(dir, f.SHA256)
		if err := c.fetch(ctx, img.Name, f, path); err != nil {
			return nil, fmt.Errorf("image %s, file %s: %w", img.Name, f.Name, err)
		}
		paths[f.Name] = path
	}
	return paths, nil
}

func (c *Client) fetch(ctx context.Context, image string, f ImageFile, path string) error {
	if st, err := os.Stat(path); err == nil && st.Size() == f.Size {
		return nil
	}
	part := path + ".part"
	out, err := os.OpenFile(part, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return err
	}
	defer out.Close()
	sum := sha256.New()
	have, err := io.Copy(sum, out)
	if err != nil {
		return err
	}
	if have < f.Size {
		got, err := c.fetchRest(ctx, image, f, have, io.MultiWriter(out, sum))
		have += got
		if err != nil {
			return errors.Join(err, out.Sync()) // what came is kept for the next try
		}
	}
	if got := hex.EncodeToString(sum.Sum(nil)); have != f.Size || got != f.SHA256 {
		return errors.Join(
			fmt.Errorf("%d bytes with SHA-256 %s, wanted %d bytes with %s", have, got, f.Size, f.SHA256),
			os.Remove(part)) // the next try begins anew
	}
	if err := out.Sync(); err != nil {
		return err
	}
	return os.Rename(part, path)
}

// fetchRest appends what follows the first have bytes of the file, at most to its size.
func (c *Client) fetchRest(ctx context.Context, image string, f ImageFile, have int64, to io.Writer) (int64, error) {
	url := c.URL(PathImages) + url.PathEscape(image) + "/" + url.PathEscape(f.Name)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return 0, err
	}
	want := http.StatusOK
	if have > 0 {
		req.Header.Set("Range", "bytes="+strconv.FormatInt(have, 10)+"-")
		want = http.StatusPartialContent
	}
	res, err := c.do(req)
	if err != nil {
		return 0, err
	}
	defer res.Body.Close()
	if res.StatusCode != want {
		return 0, fmt.Errorf("control plane answers %d to a request from byte %d", res.StatusCode, have)
	}
	n, err := io.Copy(to, io.LimitReader(res.Body, f.Size-have))
	if err == nil && have+n < f.Size {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

// Check reports an error unless the image has files with safe names, checksums
// and sizes.
func (img Image) Check() error {
	if !safeName(img.Name) || len(img.Files) == 0 {
		return fmt.Errorf("image %q: a bad name or no files", img.Name)
	}
	for _, f := range img.Files {
		if sum, err := hex.DecodeString(f.SHA256); !safeName(f.Name) || err != nil || len(sum) != sha256.Size || f.Size < 0 {
			return fmt.Errorf("image %s: file %q of %d bytes with SHA-256 %q: bad name, size or checksum",
				img.Name, f.Name, f.Size, f.SHA256)
		}
	}
	return nil
}

// safeName matches one plain path element that does not begin with a dot.
var safeName = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9._-]{0,127}$`).MatchString
