defmodule Sango.Telemetry do
  @moduledoc """
  Events for metrics and logs, given to `:telemetry` when the host application has that library, and dropped otherwise.

  | event | measurements | metadata |
  |---|---|---|
  | `[:sango, :engine, :open]` | `duration` | `name` |
  | `[:sango, :engine, :close]` | `duration` | `name` |
  | `[:sango, :job, :submit]` | `duration` | `name`, `id`, `client`, `created?` |
  | `[:sango, :job, :refuse]` | `duration` | `name`, `client`, `code` |
  | `[:sango, :job, :start]` | `wait_ms` | `name`, `id`, `client` |
  | `[:sango, :job, :stop]` | `run_ms` | `name`, `id`, `client`, `state` |
  | `[:sango, :queue, :arrange]` | `duration`, `count` | `name` |

  `duration` is in native time units, as is usual with telemetry; what ends in `_ms` is in milliseconds.
  `client` is `nil` for a job that ran before its submission was answered, and for one that an earlier node took in.
  """

  @doc "Emits the event if somebody can hear it."
  @spec execute([atom, ...], map, map) :: :ok
  def execute(event, measurements, metadata) do
    # `function_exported?/3` is a look-up in a table, where loading would search the disk each time in vain.
    if :erlang.function_exported(:telemetry, :execute, 3) do
      apply(:telemetry, :execute, [event, measurements, metadata])
    end

    :ok
  end

  @doc "Loads the library if there is one. Called once, when the application starts."
  @spec load() :: :ok
  def load do
    _ = Code.ensure_loaded(:telemetry)
    :ok
  end
end
