defmodule Sango.Property do
  @moduledoc """
  Property tests without a library: a loop over random inputs that says which seed failed.

  `SANGO_SEED=n` runs one seed again; `SANGO_ROUNDS=n` changes how many are tried.
  """

  @doc "Runs `check` with a fresh random state for each of `rounds` seeds, so that it can use `:rand`."
  def for_all(rounds, check) do
    base = :erlang.unique_integer([:positive]) + :erlang.phash2(:erlang.timestamp())

    seeds =
      case System.get_env("SANGO_SEED") do
        nil -> Enum.map(1..rounds(rounds), &(base + &1))
        seed -> [String.to_integer(seed)]
      end

    for seed <- seeds do
      :rand.seed(:exsss, {seed, 17, 42})

      try do
        check.()
      rescue
        error ->
          IO.puts("\na property failed with SANGO_SEED=#{seed}")
          reraise error, __STACKTRACE__
      end
    end
  end

  @doc "An integer from `low` to `high`."
  def between(low, high), do: low + :rand.uniform(high - low + 1) - 1

  @doc "One of them."
  def one_of(choices), do: Enum.at(choices, :rand.uniform(length(choices)) - 1)

  defp rounds(rounds), do: "SANGO_ROUNDS" |> System.get_env("#{rounds}") |> String.to_integer()
end
