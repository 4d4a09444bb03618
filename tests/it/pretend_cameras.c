/* Stands for the elements of cameras that hang on a box: `v4l2src` and a Jetson's `nvarguscamerasrc` and `nvvidconv`, with
 * the properties, caps and faults of the real ones that matter here, and pictures from `videotestsrc`. */
#include <gst/base/gstbasetransform.h>
#include <gst/gst.h>
#include <string.h>
#include <unistd.h>

#define PACKAGE "ocelli-tests"

/* v4l2src: the device's file name says what the camera sends; without the file it is unplugged. */

typedef struct {
  GstBin bin;
  gchar *device;
} UsbSrc;
typedef GstBinClass UsbSrcClass;
G_DEFINE_TYPE(UsbSrc, usb_src, GST_TYPE_BIN)

static GstPadProbeReturn plugged_in(GstPad *pad, GstPadProbeInfo *info, gpointer data) {
  UsbSrc *self = data;
  (void)pad;
  (void)info;
  if (access(self->device, F_OK) == 0)
    return GST_PAD_PROBE_OK;
  GST_ELEMENT_ERROR(self, RESOURCE, READ, ("Could not read from resource."), ("Device '%s' is gone", self->device));
  return GST_PAD_PROBE_REMOVE;
}

static void usb_src_set(GObject *object, guint id, const GValue *value, GParamSpec *spec) {
  UsbSrc *self = (UsbSrc *)object;
  (void)id;
  (void)spec;
  self->device = g_value_dup_string(value);
  const char *launch = strstr(self->device, "mjpeg")
                           ? "videotestsrc is-live=true pattern=ball ! video/x-raw,format=I420 ! jpegenc"
                           : "videotestsrc is-live=true pattern=ball ! video/x-raw,format=YUY2 ! identity";
  GstElement *inner = gst_parse_bin_from_description(launch, TRUE, NULL);
  gst_bin_add(GST_BIN(self), inner);
  GstPad *pad = gst_element_get_static_pad(inner, "src");
  gst_pad_add_probe(pad, GST_PAD_PROBE_TYPE_BUFFER, plugged_in, self, NULL);
  gst_element_add_pad(GST_ELEMENT(self), gst_ghost_pad_new("src", pad));
}

static void usb_src_class_init(UsbSrcClass *class) {
  G_OBJECT_CLASS(class)->set_property = usb_src_set;
  g_object_class_install_property(G_OBJECT_CLASS(class), 1,
                                  g_param_spec_string("device", "", "", NULL, G_PARAM_WRITABLE | G_PARAM_STATIC_STRINGS));
}

static void usb_src_init(UsbSrc *self) { (void)self; }

/* What tells NVMM memory from the system's, in caps only: one direction for the source, the other for nvvidconv. */

typedef struct {
  GstBaseTransform base;
  guint buffers;
} Memory;
typedef GstBaseTransformClass MemoryClass;
G_DEFINE_TYPE(Memory, memory, GST_TYPE_BASE_TRANSFORM)
typedef struct {
  Memory memory;
} Upload;
typedef MemoryClass UploadClass;
G_DEFINE_TYPE(Upload, upload, memory_get_type())

#define NV12(features) "video/x-raw" features ", format=NV12, width=[1,8192], height=[1,8192], framerate=[0/1,240/1]"
static GstStaticPadTemplate near_sink = GST_STATIC_PAD_TEMPLATE("sink", GST_PAD_SINK, GST_PAD_ALWAYS, GST_STATIC_CAPS(NV12("")));
static GstStaticPadTemplate far_src = GST_STATIC_PAD_TEMPLATE("src", GST_PAD_SRC, GST_PAD_ALWAYS, GST_STATIC_CAPS(NV12("(memory:NVMM)")));
static GstStaticPadTemplate far_sink = GST_STATIC_PAD_TEMPLATE("sink", GST_PAD_SINK, GST_PAD_ALWAYS, GST_STATIC_CAPS(NV12("(memory:NVMM)")));
static GstStaticPadTemplate near_src = GST_STATIC_PAD_TEMPLATE("src", GST_PAD_SRC, GST_PAD_ALWAYS, GST_STATIC_CAPS(NV12("")));

static GstCaps *other_memory(GstBaseTransform *base, GstPadDirection from, GstCaps *caps, GstCaps *filter) {
  gboolean upload = G_TYPE_CHECK_INSTANCE_TYPE(base, upload_get_type());
  gboolean to_nvmm = (from == GST_PAD_SINK) == upload;
  GstCaps *out = gst_caps_copy(caps);
  for (guint n = 0; n < gst_caps_get_size(out); n++)
    gst_caps_set_features(out, n, to_nvmm ? gst_caps_features_new("memory:NVMM", NULL) : NULL);
  if (filter) {
    GstCaps *both = gst_caps_intersect_full(filter, out, GST_CAPS_INTERSECT_FIRST);
    gst_caps_unref(out);
    out = both;
  }
  return out;
}

static GstFlowReturn as_it_is(GstBaseTransform *base, GstBuffer *buffer) {
  (void)base;
  (void)buffer;
  return GST_FLOW_OK;
}

static void memory_set(GObject *object, guint id, const GValue *value, GParamSpec *spec) {
  (void)id;
  (void)spec;
  ((Memory *)object)->buffers = g_value_get_uint(value);
}

static void memory_class_init(MemoryClass *class) {
  G_OBJECT_CLASS(class)->set_property = memory_set;
  g_object_class_install_property(G_OBJECT_CLASS(class), 1,
                                  g_param_spec_uint("output-buffers", "", "", 1, 64, 4, G_PARAM_WRITABLE | G_PARAM_STATIC_STRINGS));
  class->transform_caps = other_memory;
  class->transform_ip = as_it_is;
  gst_element_class_add_static_pad_template(GST_ELEMENT_CLASS(class), &far_sink);
  gst_element_class_add_static_pad_template(GST_ELEMENT_CLASS(class), &near_src);
  gst_element_class_set_static_metadata(GST_ELEMENT_CLASS(class), "nvvidconv", "Filter", "stands for nvvidconv", "Ocelli");
}

static void memory_init(Memory *self) { (void)self; }

static void upload_class_init(UploadClass *class) {
  gst_element_class_add_static_pad_template(GST_ELEMENT_CLASS(class), &near_sink);
  gst_element_class_add_static_pad_template(GST_ELEMENT_CLASS(class), &far_src);
}

static void upload_init(Upload *self) { (void)self; }

/* nvarguscamerasrc: a sensor per connector, of which there are two. */

typedef struct {
  GstBin bin;
  gint sensor;
} CsiSrc;
typedef GstBinClass CsiSrcClass;
G_DEFINE_TYPE(CsiSrc, csi_src, GST_TYPE_BIN)

static void csi_src_set(GObject *object, guint id, const GValue *value, GParamSpec *spec) {
  (void)id;
  (void)spec;
  ((CsiSrc *)object)->sensor = g_value_get_int(value);
}

static GstStateChangeReturn csi_src_change(GstElement *element, GstStateChange change) {
  CsiSrc *self = (CsiSrc *)element;
  if (change == GST_STATE_CHANGE_READY_TO_PAUSED && self->sensor > 1) {
    GST_ELEMENT_ERROR(self, RESOURCE, NOT_FOUND, ("No cameras available"), (NULL));
    return GST_STATE_CHANGE_FAILURE;
  }
  return GST_ELEMENT_CLASS(csi_src_parent_class)->change_state(element, change);
}

static void csi_src_class_init(CsiSrcClass *class) {
  G_OBJECT_CLASS(class)->set_property = csi_src_set;
  g_object_class_install_property(G_OBJECT_CLASS(class), 1,
                                  g_param_spec_int("sensor-id", "", "", 0, 255, 0, G_PARAM_WRITABLE | G_PARAM_STATIC_STRINGS));
  GST_ELEMENT_CLASS(class)->change_state = csi_src_change;
}

static void csi_src_init(CsiSrc *self) {
  GstElement *inner = gst_parse_bin_from_description("videotestsrc is-live=true pattern=ball", TRUE, NULL);
  GstElement *upload = g_object_new(upload_get_type(), NULL);
  gst_bin_add_many(GST_BIN(self), inner, upload, NULL);
  gst_element_link(inner, upload);
  gst_element_add_pad(GST_ELEMENT(self), gst_ghost_pad_new("src", gst_element_get_static_pad(upload, "src")));
}

static gboolean init(GstPlugin *plugin) {
  return gst_element_register(plugin, "v4l2src", GST_RANK_PRIMARY, usb_src_get_type()) &&
         gst_element_register(plugin, "nvarguscamerasrc", GST_RANK_PRIMARY, csi_src_get_type()) &&
         gst_element_register(plugin, "nvvidconv", GST_RANK_NONE, memory_get_type());
}

GST_PLUGIN_DEFINE(GST_VERSION_MAJOR, GST_VERSION_MINOR, pretend, "stands for cameras", init, "1.0", "MIT/X11", "ocelli", "ocelli")
