package storage

import (
	"context"
	"strings"
)

// ImageUsage is what one image takes.
type ImageUsage struct {
	*Image
	Size       int64 // of all its layers
	Shared     int64 // of those that other images have, too
	Containers int   // how many use it
}

// Unique is what would be freed if the image alone went.
func (u ImageUsage) Unique() int64 { return u.Size - u.Shared }

// Usage is what the store holds, each layer counted once.
type Usage struct {
	Images      []ImageUsage
	Size        int64 // of the layers of images
	Active      int   // images that containers use
	Reclaimable int64 // of the layers that no image in use needs

	Unreferenced int   // layers that nothing keeps
	Lost         int64 // their size
}

// Usage adds up the store from its records alone.
func (r *Reader) Usage(ctx context.Context) (*Usage, error) {
	imgs, err := r.Images(ctx)
	if err != nil {
		return nil, err
	}
	layers, err := r.layers(ctx)
	if err != nil {
		return nil, err
	}
	refs, err := r.Containers(ctx)
	if err != nil {
		return nil, err
	}
	users := map[string]int{}
	for _, c := range refs {
		users[c.ImageID]++
	}
	walk := func(top string, f func(l Layer)) {
		n := 0
		for id := top; id != "" && n <= maxLayers; n++ {
			l, ok := layers[id]
			if !ok {
				return
			}
			f(l)
			id = l.Parent
		}
	}
	// Layers that share their files are told by those: they are there once.
	count := map[string]int{}   // images that have the files
	active := map[string]bool{} // files that images in use have
	for _, img := range imgs {
		own := map[string]bool{}
		walk(img.TopLayer, func(l Layer) {
			if !own[l.files] {
				own[l.files] = true
				count[l.files]++
			}
			active[l.files] = active[l.files] || users[img.ID] > 0
		})
	}
	u := &Usage{}
	for _, img := range imgs {
		i := ImageUsage{Image: img, Containers: users[img.ID]}
		walk(img.TopLayer, func(l Layer) {
			i.Size += l.Bytes()
			if count[l.files] > 1 {
				i.Shared += l.Bytes()
			}
		})
		if i.Containers > 0 {
			u.Active++
		}
		u.Images = append(u.Images, i)
	}
	kept := map[string]bool{}
	for _, img := range imgs {
		for _, m := range img.Mapped {
			walk(m, func(l Layer) { kept[l.files] = true })
		}
	}
	for _, c := range refs {
		walk(c.Layer, func(l Layer) { kept[l.files] = true })
	}
	held := map[string]bool{}
	for id := range layers {
		if strings.HasPrefix(id, holderPrefix) {
			walk(id, func(l Layer) { held[l.files] = true })
		}
	}
	seen := map[string]bool{}
	for _, l := range layers {
		if seen[l.files] {
			continue
		}
		seen[l.files] = true
		switch {
		case count[l.files] > 0:
			u.Size += l.Bytes()
			if !active[l.files] {
				u.Reclaimable += l.Bytes()
			}
		case kept[l.files], held[l.files]:
		default:
			u.Unreferenced++
			u.Lost += l.Bytes()
		}
	}
	return u, nil
}
