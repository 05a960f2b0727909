defmodule Sango.Backend do
  @moduledoc """
  What does the work: stores jobs, runs them and publishes their events.

  `Sango.Native` is the one that is used. The behaviour exists so that the processes of this application can be tested
  against a small one in memory too, and so that another (many machines over Redis) can take its place.

  Maps that come out have string keys and are the JSON of `docs/protocol.md`. Every callback that can fail gives
  `{:error, {code, message, status}}`. None may block a scheduler.
  """

  @typedoc "An open engine."
  @type handle :: term
  @typedoc "A live subscription. It ends too when its process dies or nobody holds it any more."
  @type subscription :: term
  @type options :: %{
          models_dir: String.t(),
          data_dir: String.t(),
          threads: non_neg_integer,
          workers: non_neg_integer,
          max_unfinished: pos_integer,
          keep_jobs: non_neg_integer,
          max_attempts: pos_integer,
          max_video_bytes: pos_integer,
          nice: 0..19
        }
  @type id :: String.t()
  @type json :: %{String.t() => term}
  @type result(value) :: {:ok, value} | {:error, Sango.Error.reason()}

  @doc "Opens an engine that lives until it is closed, or `owner` dies."
  @callback open(options, owner :: pid) :: result(handle)

  @doc "Closes it: running jobs stop within a step and run again after the next `open`. Closing twice does no harm."
  @callback close(handle) :: :ok | {:error, Sango.Error.reason()}

  @doc "Stores a job. Also says whether it is a new one (and not that of a known idempotency key)."
  @callback submit(handle, request :: map) :: result({json, created? :: boolean})

  @callback get(handle, id) :: result(json)
  @callback cancel(handle, id) :: result(json)

  @doc "A page of jobs, newest first; `query` has `:state`, `:limit` and `:before`."
  @callback list(handle, query :: map) :: result(json)

  @callback events_after(handle, id, n :: non_neg_integer) :: result([json])

  @doc """
  Sends the events after number `n` to `pid`, each once and in order, as `{:sango_event, tag, event}`, and
  `{:sango_end, tag}` after the last one or when the engine closes.
  """
  @callback subscribe(handle, id, n :: non_neg_integer, pid, tag :: term) :: result(subscription)

  @doc """
  Sends every job to `pid` whenever its state or progress changes, as `{:sango_job, tag, job}`; `{:sango_lagged, tag, n}`
  when `n` such messages were left out; `{:sango_end, tag}` when the engine closes.
  """
  @callback watch(handle, pid, tag :: term) :: result(subscription)

  @callback unsubscribe(subscription) :: :ok | {:error, Sango.Error.reason()}

  @doc "The file of a finished job: `path`, `content_type`, `bytes`, `sha256`."
  @callback result(handle, id) :: result(json)

  @doc "The file that a stage of a `pipeline` job has made: as `result`."
  @callback stage_result(handle, id, stage :: String.t()) :: result(json)

  @doc "The file of a video or picture that a job is about, counted from 0: as `result`."
  @callback media(handle, id, index :: non_neg_integer) :: result(json)

  @callback read_result(handle, id) :: result({json, binary})
  @callback models(handle) :: result([json])
  @callback load_model(handle, name :: String.t()) :: result(json)
  @callback unload_model(handle, name :: String.t()) :: result(json)
  @callback ready(handle) :: :ok | {:error, Sango.Error.reason()}
  @callback stats(handle) :: result(json)

  @doc "The waiting jobs named run first, in this order; all others after them, by priority and age."
  @callback arrange(handle, [id]) :: :ok | {:error, Sango.Error.reason()}
end
