//! The command lines.

use std::ffi::OsString;
use std::path::Path;

/// The containers that people have. Playlists (HLS, DASH, concat), SDP, image sequences and everything else that opens
/// further files or addresses is not among them.
const FORMATS: &str = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,mpegvideo,flv,gif,apng,ogg,asf,ivf,mxf,dv,\
                       yuv4mpegpipe,nut";

/// One allocation inside the decoder: an 8192x4320 frame of four 16-bit channels, and some.
const MAX_ALLOC: u64 = 512 << 20;

/// Arguments from `&str` and paths alike.
macro_rules! arguments {
    ($($argument:expr),* $(,)?) => { vec![$(std::ffi::OsString::from($argument)),*] };
}
pub(super) use arguments;

/// What both programs are told about the input: only that very file, only these containers.
fn protections() -> Vec<OsString> {
    arguments![
        "-hide_banner",
        "-max_alloc",
        MAX_ALLOC.to_string(),
        "-protocol_whitelist",
        "file",
        "-format_whitelist",
        FORMATS,
    ]
}

/// What the decoders are told of the largest frame: it may say another size deep in the stream than the header did.
fn largest(max_pixels: u64) -> Vec<OsString> {
    arguments!["-max_pixels", max_pixels.min(i32::MAX as u64).to_string()]
}

/// The input as an address that no name can turn into another protocol or an option.
pub(super) fn address(path: &Path) -> OsString {
    let mut address = OsString::from("file:");
    address.push(path);
    address
}

/// `ffprobe` over the packets (nothing is decoded), the stream and the container.
pub(super) fn packets(path: &Path) -> Vec<OsString> {
    let mut arguments = protections();
    arguments.extend(arguments![
        "-loglevel",
        "level+error",
        "-select_streams",
        "V:0",
        "-show_entries",
        "packet=pts,duration,flags:stream=codec_name,width,height,field_order,time_base,avg_frame_rate,nb_frames:\
         stream_side_data=rotation:stream_tags=rotate:format=format_name",
        "-of",
        "compact",
        address(path),
    ]);
    arguments
}

/// `ffprobe` over the decoded frames: slow, and right where packets and frames are not one to one.
pub(super) fn frames(path: &Path, max_pixels: u64, threads: usize) -> Vec<OsString> {
    let mut arguments = protections();
    arguments.extend(largest(max_pixels));
    arguments.extend(arguments![
        "-loglevel",
        "level+error",
        "-threads",
        threads.to_string(),
        "-select_streams",
        "V:0",
        "-show_entries",
        "frame=best_effort_timestamp,duration,pkt_duration,key_frame",
        "-of",
        "compact",
        address(path),
    ]);
    arguments
}

/// What `ffmpeg` is asked for.
pub(super) struct Decode<'a> {
    pub path: &'a Path,
    /// Start at the key frame at or before this many microseconds of the file's own clock.
    pub seek: Option<i64>,
    pub threads: usize,
    /// The expression of the filter `select`.
    pub select: &'a str,
    pub max_pixels: u64,
    pub width: u32,
    pub height: u32,
    pub passthrough: [&'static str; 2],
}

/// `ffmpeg` writing the selected frames as RGB, in presentation order, each announced by `showinfo`.
///
/// `bicubic` is what FFmpeg's own conversion to RGB uses, with the matrix and range that the file states, and therefore
/// what torchcodec returns. The display matrix is applied before the filters given here. A stream that changes its size
/// midway is brought back to the first one.
pub(super) fn decode(request: &Decode) -> Vec<OsString> {
    let Decode { width, height, select, .. } = request;
    let mut arguments = arguments!["-nostdin", "-nostats", "-loglevel", "level+info", "-copyts"];
    arguments.extend(protections());
    arguments.extend(largest(request.max_pixels));
    if let Some(microseconds) = request.seek {
        let (sign, value) = (if microseconds < 0 { "-" } else { "" }, microseconds.unsigned_abs());
        let seconds = format!("{sign}{}.{:06}", value / 1_000_000, value % 1_000_000);
        arguments.extend(arguments!["-seek_timestamp", "1", "-noaccurate_seek", "-ss", seconds]);
    }
    arguments.extend(arguments![
        "-threads",
        request.threads.to_string(),
        "-i",
        address(request.path),
        "-map",
        "0:V:0",
        "-filter_threads",
        "1",
        "-vf",
        format!("select='{select}',showinfo=checksum=0,scale={width}:{height}:flags=bicubic,format=rgb24"),
    ]);
    arguments.extend(request.passthrough.map(OsString::from));
    // Threads of the raw "encoder" and the writer's buffer would each hold a frame back until later ones come, so that a
    // segment's last frame would be read only at the end of the file.
    arguments.extend(arguments!["-threads", "1", "-flush_packets", "1", "-f", "rawvideo", "pipe:1"]);
    arguments
}
