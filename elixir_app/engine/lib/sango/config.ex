defmodule Sango.Config do
  @moduledoc """
  The options of an instance, as `{Sango, options}` in a supervision tree and `config :engine, Sango, options` take
  them.

  | option | default | meaning |
  |---|---|---|
  | `:name` | `Sango` | an atom; two instances need two names and two data folders |
  | `:models_dir` | required | folder of models in Hugging Face layout, or one such model |
  | `:data_dir` | required | folder of the job store and the results; made if need be, used by one engine at a time |
  | `:threads` | `0` | compute threads; 0 is one per core |
  | `:workers` | `1` | jobs that run at the same time; each uses every thread by itself, so more than one seldom pays. With 0 jobs are only stored |
  | `:max_unfinished` | `256` | jobs that may wait or run; more are refused with `queue_full` |
  | `:max_per_client` | `:infinity` | the same for one client |
  | `:keep_jobs` | `1_000` | ended jobs that are remembered, with their results |
  | `:max_attempts` | `3` | how often a job is begun when the cause of its failure may pass |
  | `:max_video_bytes` | `1_073_741_824` | largest file that a question may be about |
  | `:nice` | `10` | scheduling niceness of the compute threads, 0 to 19, so that they give way to the VM's schedulers |
  | `:open_timeout` | `15_000` | ms to wait for the data folder while an engine that used it before is still closing |
  | `:backend` | `Sango.Native` | the module that does the work, see `Sango.Backend` |
  """

  alias Sango.Backend

  @enforce_keys [:name, :models_dir, :data_dir]
  defstruct name: nil,
            models_dir: nil,
            data_dir: nil,
            threads: 0,
            workers: 1,
            max_unfinished: 256,
            max_per_client: :infinity,
            keep_jobs: 1_000,
            max_attempts: 3,
            max_video_bytes: 1_073_741_824,
            nice: 10,
            open_timeout: 15_000,
            backend: Sango.Native

  @type t :: %__MODULE__{
          name: atom,
          models_dir: String.t(),
          data_dir: String.t(),
          threads: non_neg_integer,
          workers: non_neg_integer,
          max_unfinished: pos_integer,
          max_per_client: pos_integer | :infinity,
          keep_jobs: non_neg_integer,
          max_attempts: pos_integer,
          max_video_bytes: pos_integer,
          nice: 0..19,
          open_timeout: non_neg_integer,
          backend: module
        }

  @doc """
  Checks the options and fills in the defaults.

  Raises `ArgumentError`, which names the option, for one that is missing, unknown or out of range.

      iex> Sango.Config.new!(models_dir: "models", data_dir: "data").workers
      1
      iex> Sango.Config.new!(models_dir: "models", data_dir: "data", workers: -1)
      ** (ArgumentError) Sango: option :workers is -1: give a whole number from 0 to 64
  """
  @spec new!(keyword) :: t
  def new!(options) do
    if not Keyword.keyword?(options), do: wrong("options must be a keyword list, got: #{inspect(options)}")
    options = Keyword.put_new(options, :name, Sango)
    known = Map.keys(%__MODULE__{name: nil, models_dir: nil, data_dir: nil}) -- [:__struct__]

    for {key, _} <- options, key not in known do
      wrong("there is no option #{inspect(key)}; there are: #{Enum.map_join(known, ", ", &inspect/1)}")
    end

    for key <- [:models_dir, :data_dir], not Keyword.has_key?(options, key) do
      wrong("option #{inspect(key)} is missing: name a folder")
    end

    config = struct!(__MODULE__, options)
    Enum.each(Map.from_struct(config), &check/1)
    %{config | models_dir: Path.expand(config.models_dir), data_dir: Path.expand(config.data_dir)}
  end

  @doc "What the backend is opened with."
  @spec backend_options(t) :: Backend.options()
  def backend_options(%__MODULE__{} = config) do
    Map.take(config, [
      :models_dir,
      :data_dir,
      :threads,
      :workers,
      :max_unfinished,
      :keep_jobs,
      :max_attempts,
      :max_video_bytes,
      :nice
    ])
  end

  defp check({:max_per_client, :infinity}), do: :ok
  defp check({:threads, n}), do: within(:threads, n, 0, 1_024)
  defp check({:workers, n}), do: within(:workers, n, 0, 64)
  defp check({:max_unfinished, n}), do: within(:max_unfinished, n, 1, 1_000_000)
  defp check({:max_per_client, n}), do: within(:max_per_client, n, 1, 1_000_000)
  defp check({:keep_jobs, n}), do: within(:keep_jobs, n, 0, 10_000_000)
  defp check({:max_attempts, n}), do: within(:max_attempts, n, 1, 1_000)
  defp check({:max_video_bytes, n}), do: within(:max_video_bytes, n, 1, 1_099_511_627_776)
  defp check({:nice, n}), do: within(:nice, n, 0, 19)
  defp check({:open_timeout, n}), do: within(:open_timeout, n, 0, 3_600_000)

  defp check({key, folder}) when key in [:models_dir, :data_dir] do
    if not (is_binary(folder) and folder != "" and String.valid?(folder)) do
      wrong("option #{inspect(key)} is #{inspect(folder)}: give the path of a folder, as a string")
    end
  end

  defp check({key, module}) when key in [:name, :backend] do
    if not is_atom(module) or module in [nil, true, false] do
      wrong("option #{inspect(key)} is #{inspect(module)}: give an atom")
    end
  end

  defp within(_key, n, low, high) when is_integer(n) and n >= low and n <= high, do: :ok

  defp within(key, n, low, high) do
    wrong("option #{inspect(key)} is #{inspect(n)}: give a whole number from #{low} to #{high}")
  end

  @spec wrong(String.t()) :: no_return
  defp wrong(message), do: raise(ArgumentError, "Sango: " <> message)
end
