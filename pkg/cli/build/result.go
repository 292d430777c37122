package build

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"

	"cais.dev/cais/pkg/atomicfile"
	"cais.dev/cais/pkg/build"
	"cais.dev/cais/pkg/build/export"
	"cais.dev/cais/pkg/build/graph"
	"cais.dev/cais/pkg/engine"
	"cais.dev/cais/pkg/errs"
	"cais.dev/cais/pkg/events"
	"cais.dev/cais/pkg/oci"
	"cais.dev/cais/pkg/push"
	"cais.dev/cais/pkg/storage"
)

// exporter makes a build's outputs.
type exporter struct {
	j *job
	b *engine.Builder

	images []image // as they are in the store; none if only files were asked for
	root   oci.Document
	kept   string // the digest of the list in the store
	sent   string // the digest of what was pushed
}

// image is one platform's.
type image struct {
	platform oci.Platform
	id       string
	source   push.Source // nil until a layer is asked for
	doc      oci.Document
	config   []byte
}

// needsImage reports whether an output is made of an image, not of files.
func needsImage(o export.Spec) bool {
	return o.Type == "image" || o.Type == "oci" || o.Type == "docker"
}

// stored reports whether an output leaves an image in the store.
func stored(o export.Spec) bool {
	return o.Type == "image" && o.Flag("store", true)
}

// several reports whether the result is a list of images: of several platforms, or of
// one if the list is asked for.
func (j *job) several() bool {
	on, err := strconv.ParseBool(j.args["BUILDKIT_MULTI_PLATFORM"])
	return err == nil && on || len(j.platforms) > 1 || j.list != ""
}

// request says what the build is to record.
func (x *exporter) request(req *build.Request) error {
	several := x.j.several()
	for _, o := range x.j.outputs {
		req.Record = req.Record || needsImage(o)
		if several && (o.Type == "docker") {
			return errs.New(errs.Unsupported, "docker exporter does not currently support exporting manifest lists: build for one platform, or use type=oci")
		}
	}
	req.Names, _ = x.named()
	for _, a := range x.annotations() {
		if a.level == "manifest" && a.platform == nil {
			if req.Annotations == nil {
				req.Annotations = map[string]string{}
			}
			req.Annotations[a.key] = a.value
		}
		if strings.HasPrefix(a.level, "index") && !several {
			return errs.New(errs.Unsupported, a.level+" annotations not supported for single platform export")
		}
	}
	return nil
}

// rewrite says how the layers are to differ from those that the steps made.
func (x *exporter) rewrite(g *graph.Graph) (build.Rewrite, error) {
	o := &x.j.o
	w := build.Rewrite{Squash: o.squash || !o.layers && !o.squashAll, SquashAll: o.squashAll}
	clamp := o.rewriteTimestamp
	for _, out := range x.j.outputs {
		clamp = clamp || needsImage(out) && out.Flag("rewrite-timestamp", false)
	}
	epoch := g.Results[0].Epoch
	switch {
	case o.timestamp == "" && !clamp:
	case epoch == nil && !o.rewriteTimestamp && o.timestamp == "": // an output's key, which BuildKit passes over
		x.j.notes = append(x.j.notes, "rewrite-timestamp has no effect: SOURCE_DATE_EPOCH is not set")
	case epoch == nil:
		return w, errs.WithHint(invalid("rewrite-timestamp needs a time"), "Give it with --build-arg SOURCE_DATE_EPOCH=SECONDS.")
	case o.timestamp != "":
		w.Time = *epoch
	default:
		w.Latest = *epoch
	}
	return w, nil
}

// names are what the image is to be called in the store.
func (x *exporter) names() []string {
	names := []string{}
	for _, o := range x.j.outputs {
		if !stored(o) || o.Flag("push-by-digest", false) {
			continue
		}
		for _, n := range x.namesOf(o) {
			if r, err := oci.Parse(n); err == nil && !slices.Contains(names, r.WithDefaultTag().String()) {
				names = append(names, r.WithDefaultTag().String())
			}
		}
	}
	return names
}

// named are the names of the image and those of the list of images. Of one platform's
// build, --manifest names the list and -t the image, as in podman.
func (x *exporter) named() (image, list []string) {
	all := x.names()
	switch {
	case !x.j.several():
		return all, nil
	case x.j.list == "" || len(x.j.platforms) > 1 || !slices.Contains(all, x.j.list):
		return nil, all
	}
	return slices.DeleteFunc(all, func(n string) bool { return n == x.j.list }), []string{x.j.list}
}

// namesOf are an output's names: those of -t take the place of its own, as in buildx.
func (x *exporter) namesOf(o export.Spec) []string {
	if len(x.j.names) > 0 {
		return x.j.names
	}
	return o.Names()
}

// annotations are those of all flags.
func (x *exporter) annotations() []annotation {
	all := slices.Clone(x.j.annotated)
	for _, o := range x.j.outputs {
		for _, a := range o.Annotations() {
			all = append(all, annotation{level: a.Level, platform: a.Platform, key: a.Key, value: a.Value})
		}
	}
	return all
}

// export makes all outputs of a result.
func (x *exporter) export(ctx context.Context, res *build.Result) error {
	if slices.ContainsFunc(x.j.outputs, needsImage) {
		if err := x.prepare(res); err != nil {
			return err
		}
	}
	if x.j.several() && slices.ContainsFunc(x.j.outputs, stored) {
		if err := x.keepIndex(ctx); err != nil {
			return err
		}
	}
	for _, o := range x.j.outputs {
		if err := x.output(ctx, o, res); err != nil {
			return err
		}
	}
	if err := x.discard(ctx); err != nil {
		return err
	}
	return x.report()
}

// prepare has the images' documents, and makes the index of several. The store is
// not asked: the image may be gone again, by another's prune.
func (x *exporter) prepare(res *build.Result) error {
	for _, b := range res.Images {
		m, _, err := oci.ParseManifest(b.Manifest, "")
		if err != nil {
			return err
		}
		one := image{platform: b.Platform, id: b.ID, config: b.Config,
			doc: oci.Document{MediaType: m.MediaType, Digest: oci.Digest(b.Manifest), Data: b.Manifest}}
		if one.doc, err = x.annotate(one); err != nil {
			return err
		}
		x.images = append(x.images, one)
	}
	x.root = x.images[0].doc
	if x.j.several() {
		var err error
		if x.root, err = x.index(index{SchemaVersion: 2}); err != nil {
			return err
		}
	}
	return nil
}

// annotate adds what is meant for this platform's manifest alone.
func (x *exporter) annotate(img image) (oci.Document, error) {
	add := x.annotated("manifest", img.platform)
	if len(add) == 0 {
		return img.doc, nil
	}
	var m map[string]json.RawMessage
	if err := json.Unmarshal(img.doc.Data, &m); err != nil {
		return img.doc, err
	}
	have := map[string]string{}
	if raw, ok := m["annotations"]; ok {
		if err := json.Unmarshal(raw, &have); err != nil {
			return img.doc, err
		}
	}
	same := true
	for k, v := range add {
		same = same && have[k] == v
		have[k] = v
	}
	if same {
		return img.doc, nil
	}
	raw, err := json.Marshal(have)
	if err != nil {
		return img.doc, err
	}
	m["annotations"] = raw
	data, err := json.Marshal(m)
	return oci.Document{MediaType: img.doc.MediaType, Digest: oci.Digest(data), Data: data}, err
}

// index is a list of images as registries have it.
type index struct {
	SchemaVersion int               `json:"schemaVersion"`
	MediaType     string            `json:"mediaType"`
	Manifests     []oci.Descriptor  `json:"manifests"`
	Annotations   map[string]string `json:"annotations,omitempty"`
}

// annotated are the annotations of a level that are for a platform.
func (x *exporter) annotated(level string, p oci.Platform) map[string]string {
	var found map[string]string
	for _, a := range x.annotations() {
		if a.level == level && (a.platform == nil || a.platform.String() == p.String()) {
			if found == nil {
				found = map[string]string{}
			}
			found[a.key] = a.value
		}
	}
	return found
}

// onDescriptor are the annotations of whatever points at the result: an archive's
// index.json, the file of --metadata-file.
func (x *exporter) onDescriptor() map[string]string {
	if x.j.several() {
		return x.annotated("index-descriptor", oci.Platform{})
	}
	return x.annotated("manifest-descriptor", x.images[0].platform)
}

// index adds the platforms' images to a list, in the place of those that it has for
// the same platforms.
func (x *exporter) index(list index) (oci.Document, error) {
	if list.MediaType == "" {
		list.MediaType = oci.TypeDockerIndex
		if x.images[0].doc.MediaType == oci.TypeOCIManifest {
			list.MediaType = oci.TypeOCIIndex
		}
	}
	for _, img := range x.images {
		d := oci.Descriptor{MediaType: img.doc.MediaType, Digest: img.doc.Digest, Size: int64(len(img.doc.Data)), Platform: &img.platform}
		d.Annotations = x.annotated("manifest-descriptor", img.platform)
		list.Manifests = append(slices.DeleteFunc(list.Manifests, func(old oci.Descriptor) bool {
			return old.Digest == d.Digest || old.Platform != nil && old.Platform.Normalize().String() == img.platform.String()
		}), d)
	}
	for k, v := range x.annotated("index", oci.Platform{}) {
		if list.Annotations == nil {
			list.Annotations = map[string]string{}
		}
		list.Annotations[k] = v
	}
	data, err := json.Marshal(list)
	return oci.Document{MediaType: list.MediaType, Digest: oci.Digest(data), Data: data}, err
}

// keepIndex records the list of images in the store: in the place of one of the same
// name, or added to the one that --manifest names.
func (x *exporter) keepIndex(ctx context.Context) (err error) {
	st, err := x.j.e.Store(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, st.Close()) }()
	release, err := st.LockLists(ctx)
	if err != nil {
		return err
	}
	defer release()
	l, instances := storage.List{Index: x.root.Data}, map[string]string{}
	_, l.Names = x.named()
	if name := cmp.Or(slices.Concat([]string{x.j.list}, l.Names)...); name != "" {
		img, err := x.listed(ctx, st.Reader(), name)
		if err != nil {
			return err
		}
		if img != nil {
			l.ID = img.ID
			if err := x.addTo(ctx, st.Reader(), img, &l, instances); err != nil {
				return err
			}
		}
	}
	for _, i := range x.images {
		instances[i.doc.Digest] = "containers-storage:@" + i.id
	}
	if l.Instances, err = json.Marshal(instances); err != nil {
		return err
	}
	x.kept = oci.Digest(l.Index)
	_, err = st.PutList(l)
	return err
}

// listed finds the list of images that has the name; nil if none has. -t takes the name
// from an image, and --manifest does not.
func (x *exporter) listed(ctx context.Context, r *storage.Reader, name string) (*storage.Image, error) {
	img, err := r.Image(ctx, name)
	switch {
	case errs.KindOf(err) == errs.NotFound:
		return nil, nil
	case err != nil || img.IsList():
		return img, err
	case name == x.j.list:
		err := errs.New(errs.Conflict, x.j.o.manifest+" is an image, not a manifest list")
		return nil, errs.WithHint(err, "Give --manifest another name, or remove the image with 'cais rmi "+x.j.o.manifest+"'.")
	}
	return nil, nil
}

// addTo makes l's index the stored list's with what was built, if --manifest asks for it.
func (x *exporter) addTo(ctx context.Context, r *storage.Reader, img *storage.Image, l *storage.List, instances map[string]string) error {
	if x.j.list == "" {
		return nil
	}
	have, err := r.List(ctx, img)
	if err != nil {
		return err
	}
	var list index
	if err := json.Unmarshal(have.Index, &list); err != nil {
		return errs.E("read manifest list "+x.j.list, errs.Invalid, err)
	}
	if len(have.Instances) > 0 {
		if err := json.Unmarshal(have.Instances, &instances); err != nil {
			return errs.E("read manifest list "+x.j.list, errs.Invalid, err)
		}
	}
	doc, err := x.index(list)
	l.Index = doc.Data
	return err
}

// Document is a manifest of the index, or a config: x is a [push.Source].
func (x *exporter) Document(ctx context.Context, d oci.Descriptor) ([]byte, error) {
	for _, img := range x.images {
		switch d.Digest {
		case img.doc.Digest:
			return img.doc.Data, nil
		case "sha256:" + img.id:
			return img.config, nil
		}
	}
	return nil, errs.New(errs.NotFound, "the build made no "+d.Digest)
}

// Layer finds a layer in the image that has it.
func (x *exporter) Layer(ctx context.Context, d oci.Descriptor, diffID string) (push.Layer, error) {
	var first error
	for i := range x.images {
		l, err := x.layer(ctx, &x.images[i], d, diffID)
		if err == nil {
			return l, nil
		}
		if first == nil {
			first = err
		}
	}
	return push.Layer{}, first
}

func (x *exporter) layer(ctx context.Context, img *image, d oci.Descriptor, diffID string) (push.Layer, error) {
	if img.source == nil {
		r, err := x.j.e.Reader()
		if err != nil {
			return push.Layer{}, err
		}
		stored, err := r.Image(ctx, "sha256:"+img.id)
		if err != nil {
			return push.Layer{}, err
		}
		if img.source, _, err = x.j.e.ImageSource(ctx, stored, ""); err != nil {
			return push.Layer{}, err
		}
	}
	return img.source.Layer(ctx, d, diffID)
}

// discard removes the records of images that only archives needed.
func (x *exporter) discard(ctx context.Context) error {
	if len(x.images) == 0 || slices.ContainsFunc(x.j.outputs, stored) {
		return nil
	}
	r, err := x.j.e.Reader()
	if err != nil {
		return err
	}
	st, err := x.j.e.Store(ctx)
	if err != nil {
		return err
	}
	var all error
	for _, i := range x.images {
		img, err := r.Image(ctx, "sha256:"+i.id)
		if err != nil || len(img.Names) > 0 {
			continue
		}
		_, err = st.RemoveImage(ctx, storage.RemoveOptions{}, "sha256:"+i.id)
		if errs.KindOf(err) == errs.Conflict || errs.KindOf(err) == errs.NotFound { // somebody uses it
			err = nil
		}
		all = errors.Join(all, err)
	}
	return errors.Join(all, st.Close())
}

// removeID removes an earlier build's --iidfile: if this one fails, a script must not
// take its image for ours.
func (j *job) removeID() error {
	if j.o.iidFile == "" {
		return nil
	}
	if err := os.Remove(j.o.iidFile); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// note adds the image, with its labels, or the list of images, and its names to the
// events.
func (x *exporter) note(id string) {
	if !slices.ContainsFunc(x.j.outputs, stored) {
		return
	}
	var c oci.Image
	if !x.j.several() {
		_ = json.Unmarshal(x.images[0].config, &c) // our own
	}
	event := func(action, name string) events.Event {
		attrs := map[string]string{}
		maps.Copy(attrs, c.Config.Labels)
		attrs["name"] = name
		return events.Event{Type: events.Image, Action: action, ID: id, Attributes: attrs}
	}
	list := []events.Event{event("create", id)}
	for _, n := range x.names() {
		if ref, err := oci.Parse(n); err == nil {
			n = ref.Familiar()
		}
		list = append(list, event("tag", n))
	}
	x.j.e.Note(list...)
}

// report writes what scripts want to know.
func (x *exporter) report() error {
	id := ""
	switch {
	case len(x.images) == 0:
	case x.j.several():
		id = cmp.Or(x.kept, x.root.Digest)
	default:
		id = "sha256:" + x.images[0].id
	}
	x.note(id)
	if f := x.j.o.iidFile; f != "" {
		if err := os.WriteFile(f, []byte(id), 0o644); err != nil {
			return err
		}
	}
	if f := x.j.o.metadataFile; f != "" {
		data, err := json.MarshalIndent(x.metadata(id), "", "  ")
		if err != nil {
			return err
		}
		if err := atomicfile.Write(f, data, 0o644, false); err != nil {
			return err
		}
	}
	if x.j.o.quiet && id != "" {
		fmt.Fprintln(x.j.s.Out, id)
	}
	return nil
}

// metadata has buildx's keys.
func (x *exporter) metadata(id string) map[string]any {
	sum := sha256.Sum256([]byte(id + x.root.Digest))
	m := map[string]any{"buildx.build.ref": "default/default/" + hex.EncodeToString(sum[:])[:25]}
	if len(x.images) == 0 {
		return m
	}
	if len(x.images) == 1 {
		m["containerimage.config.digest"] = "sha256:" + x.images[0].id
	}
	m["containerimage.digest"] = x.root.Digest
	m["containerimage.descriptor"] = oci.Descriptor{
		MediaType: x.root.MediaType, Digest: x.root.Digest, Size: int64(len(x.root.Data)), Annotations: x.onDescriptor(),
	}
	var names []string
	for _, n := range slices.Concat(x.j.names, x.names()) {
		if !slices.Contains(names, n) {
			names = append(names, n)
		}
	}
	if len(names) > 0 {
		m["image.name"] = strings.Join(names, ",")
	}
	return m
}
