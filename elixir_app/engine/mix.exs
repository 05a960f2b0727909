defmodule Sango.MixProject do
  use Mix.Project

  def project do
    [
      app: :engine,
      version: "0.1.0",
      description: "Queues jobs that draw pictures, and runs them in this VM.",
      elixir: "~> 1.14",
      elixirc_paths: if(Mix.env() == :test, do: ["lib", "test/support"], else: ["lib"]),
      # Last, because the compiler of the NIF is itself one of the modules of `lib`.
      compilers: Mix.compilers() ++ [:sango_nif],
      start_permanent: Mix.env() == :prod,
      deps: []
    ]
  end

  def application do
    [mod: {Sango.Application, []}, extra_applications: [:logger, telemetry: :optional]]
  end
end
