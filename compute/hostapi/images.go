package hostapi

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"path"

	"github.com/usance/usance/compute"
)

// Images are the folders that images lie in, the first that has a name winning.
// Each image is a folder of its own with its files and image.json, which is an
// Image. Nothing outside the folders is reachable, by ".." or by link.
type Images struct {
	Roots []string
}

// imageRecord is the file that describes an image, in its folder.
const imageRecord = "image.json"

// maxImageRecordBytes bounds image.json; a longer one is refused.
const maxImageRecordBytes = 1 << 20

// Find returns the image of that name, with the size of its disk; the error wraps compute.ErrNoImage when
// there is none.
func (i Images) Find(name string) (Image, error) {
	img, err := i.record(name)
	if err != nil {
		return Image{}, err
	}
	for _, f := range img.Files {
		if f.Name == diskFile {
			if img.DiskMiB, err = i.diskMiB(name); err != nil {
				return Image{}, fmt.Errorf("image %s: its disk: %w", name, err)
			}
		}
	}
	return img, nil
}

// record is what the image's record says.
func (i Images) record(name string) (Image, error) {
	f, err := i.open(name, imageRecord)
	if err != nil {
		return Image{}, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxImageRecordBytes))
	if err != nil {
		return Image{}, fmt.Errorf("image %s: %w", name, err)
	}
	var img Image
	if err := json.Unmarshal(text, &img); err != nil {
		return Image{}, fmt.Errorf("image %s: %s: %w", name, imageRecord, err)
	}
	if img.Name != name {
		return Image{}, fmt.Errorf("image %s: %s says it is %q", name, imageRecord, img.Name)
	}
	return img, img.Check()
}

// diskFile is the file that an image boots from; it is a qcow2.
const diskFile = "disk"

// diskMiB is how large the image's disk is for its guest. A qcow2 file begins with
// "QFI\xfb", and has that size in bytes, big-endian, at 24.
func (i Images) diskMiB(name string) (int64, error) {
	f, err := i.open(name, diskFile)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	var head [32]byte
	if _, err := io.ReadFull(f, head[:]); err != nil {
		return 0, err
	}
	size := binary.BigEndian.Uint64(head[24:])
	if string(head[:4]) != "QFI\xfb" || size > math.MaxInt64 {
		return 0, fmt.Errorf("it begins with %x: not a qcow2 file", head)
	}
	return int64((size + 1<<20 - 1) >> 20), nil
}

// Open opens one of the files that the image's record lists. The error wraps
// compute.ErrNotFound when there is none.
func (i Images) Open(name, file string) (*os.File, error) {
	img, err := i.record(name)
	if errors.Is(err, compute.ErrNoImage) {
		return nil, fmt.Errorf("%w: %w", compute.ErrNotFound, err)
	}
	if err != nil {
		return nil, err
	}
	for _, f := range img.Files {
		if f.Name == file {
			return i.open(name, file)
		}
	}
	return nil, fmt.Errorf("image %s has no file %q: %w", name, file, compute.ErrNotFound)
}

func (i Images) open(name, file string) (*os.File, error) {
	if !safeName(name) || !safeName(file) {
		return nil, fmt.Errorf("%q: %w", name, compute.ErrNoImage)
	}
	for _, folder := range i.Roots {
		root, err := os.OpenRoot(folder)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("folder of images: %w", err)
		}
		f, err := root.Open(path.Join(name, file))
		root.Close()
		if !errors.Is(err, fs.ErrNotExist) {
			return f, err
		}
	}
	return nil, fmt.Errorf("%q: %w", name, compute.ErrNoImage)
}
