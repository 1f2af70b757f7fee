package embedded

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
)

// account is the system user the server runs as. Its zero value is not valid.
type account struct {
	uid, gid uint32
}

// findAccount is user "postgres" for root, which Postgres refuses, and else the
// present user.
func findAccount() (account, error) {
	if os.Geteuid() != 0 {
		return account{uint32(os.Geteuid()), uint32(os.Getegid())}, nil
	}
	u, err := user.Lookup("postgres")
	if err != nil {
		return account{}, errors.New("root cannot run Postgres and there is no system user postgres: apt-get install postgresql-15, or start as another user, or give a Postgres DSN")
	}
	a, err := parseAccount(u.Uid + ":" + u.Gid)
	if err != nil {
		return account{}, fmt.Errorf("system user postgres: %w", err)
	}
	return a, nil
}

// String is "uid:gid", as parseAccount reads it.
func (a account) String() string { return fmt.Sprintf("%d:%d", a.uid, a.gid) }

func parseAccount(s string) (account, error) {
	var a account
	if n, err := fmt.Sscanf(s, "%d:%d", &a.uid, &a.gid); n != 2 || err != nil {
		return a, fmt.Errorf("%q is not uid:gid", s)
	}
	return a, nil
}

// credential is what a child needs to become the account, nil when we are it.
func (a account) credential() *syscall.Credential {
	if a.uid == uint32(os.Geteuid()) {
		return nil
	}
	return &syscall.Credential{Uid: a.uid, Gid: a.gid}
}

// prepare makes the parent of the data folder and the socket folder, the latter
// the account's own, and checks that the account can reach both.
func (a account) prepare(dir, socketDir string) error {
	for _, parent := range []string{filepath.Dir(dir), filepath.Dir(socketDir)} {
		if err := os.MkdirAll(parent, 0o755); err != nil {
			return fmt.Errorf("make the folder of the Postgres server: %w", err)
		}
		if err := a.canReach(parent); err != nil {
			return err
		}
	}
	if err := os.Mkdir(socketDir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("make the socket folder of the Postgres server: %w", err)
	}
	return a.own(socketDir)
}

// own gives a folder to the account.
func (a account) own(dir string) error {
	if err := os.Chown(dir, int(a.uid), int(a.gid)); err != nil {
		return fmt.Errorf("give %s to uid %d: %w", dir, a.uid, err)
	}
	return nil
}

// canReach reports an error unless the account may search dir and every folder above it.
func (a account) canReach(dir string) error {
	if a.credential() == nil {
		return nil // the kernel says so itself, and no better
	}
	for p := dir; ; p = filepath.Dir(p) {
		info, err := os.Stat(p)
		if err != nil {
			return fmt.Errorf("folder of the Postgres server: %w", err)
		}
		stat := info.Sys().(*syscall.Stat_t)
		search := fs.FileMode(0o001)
		switch {
		case stat.Uid == a.uid:
			search = 0o100
		case stat.Gid == a.gid:
			search = 0o010
		}
		if info.Mode()&search == 0 {
			return fmt.Errorf("system user postgres (uid %d) cannot enter %s, which holds %s: chmod o+x %s, or choose another data folder", a.uid, p, dir, p)
		}
		if p == filepath.Dir(p) {
			return nil
		}
	}
}

// writeAccess writes who may connect: by socket alone, the present user and the
// server's own, as the one role.
func (a account) writeAccess(dir string) error {
	me, err := user.Current()
	if err != nil {
		return fmt.Errorf("name of the present user, for Postgres to know it by: %w", err)
	}
	server, err := user.LookupId(strconv.Itoa(int(a.uid)))
	if err != nil {
		return fmt.Errorf("name of uid %d, for Postgres to know it by: %w", a.uid, err)
	}
	ident := fmt.Sprintf("usance %q %s\n", me.Username, role)
	if server.Username != me.Username {
		ident += fmt.Sprintf("usance %q %s\n", server.Username, role)
	}
	for name, text := range map[string]string{
		"pg_hba.conf":   "local all " + role + " peer map=usance\n",
		"pg_ident.conf": ident,
	} {
		if err := a.replace(filepath.Join(dir, name), "# Written at each start.\n"+text); err != nil {
			return fmt.Errorf("write %s of the Postgres server: %w", name, err)
		}
	}
	return nil
}

// replace writes a file of the account in one step, if it is not so already.
func (a account) replace(path, text string) error {
	if old, err := os.ReadFile(path); err == nil && bytes.Equal(old, []byte(text)) {
		return nil
	}
	if err := os.WriteFile(path+".new", []byte(text), 0o600); err != nil {
		return err
	}
	if err := os.Chown(path+".new", int(a.uid), int(a.gid)); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}
